"""Compose `params.yaml` from `conf/`: `python -m remerge.stages.compose [--check] [key=value …]`.

`dvc exp run` does the same before it runs; this is for the committed file and for CI, which fails
when the file is not what `conf/` composes to.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from remerge.errors import RecipeError, RemergeError
from remerge.files import write_text
from remerge.stages.checking import check_composition


def composed(overrides: list[str], folder: Path | None = None) -> str:
    """The text of `params.yaml` for the given overrides; RecipeError says what does not compose."""
    try:
        # As DVC does it: this reads the plugins, and what they guard.
        with initialize_config_dir(str((folder or Path("conf")).resolve()), version_base=None):
            config = compose("config", overrides=overrides)
        # First as a mistake that can be caught; `checked` in the config would end the process.
        described = OmegaConf.masked_copy(config, [key for key in config if key != "checked"])
        check_composition(OmegaConf.to_container(described, resolve=True))
        OmegaConf.resolve(config)
        return OmegaConf.to_yaml(config)
    except SystemExit as refused:  # by `stages.composition`
        raise RecipeError(str(refused).removeprefix("error: ")) from None
    except (HydraException, OmegaConfBaseException) as error:
        reason = " ".join(str(error).split())
        raise RecipeError(reason.partition(" Config search path")[0]) from None


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m remerge.stages.compose", description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    parser.add_argument("--print", action="store_true", help="show the text, write nothing")
    parser.add_argument("overrides", nargs="*", help="as after -S of `dvc exp run`")
    options = parser.parse_args()
    path = Path("params.yaml")
    try:
        text = composed(options.overrides)
    except RemergeError as error:
        sys.exit(f"error: {error}")
    if options.print:
        print(text, end="")
    elif not options.check:
        write_text(path, text)
    elif not path.exists() or path.read_text() != text:
        sys.exit("error: params.yaml is not what conf/ composes to; run `make params`")


if __name__ == "__main__":
    main()
