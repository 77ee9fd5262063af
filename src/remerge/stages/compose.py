"""Compose `params.yaml` from `conf/`: `python -m remerge.stages.compose [--check] [key=value …]`.

`dvc exp run` does the same before it runs; this is for the committed file and for CI, which fails
when the file is not what `conf/` composes to.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from remerge.errors import RecipeError
from remerge.files import write_text
from remerge.stages.composition import Refused, install
from remerge.stages.running import fail


def composed(overrides: list[str], folder: Path | None = None) -> str:
    """Compose the text of `params.yaml`.

    Args:
        overrides: As after `-S` of `dvc exp run`.
        folder: The configuration, `conf` by default.

    Raises:
        RecipeError: What does not compose.
    """
    install()
    try:
        # As DVC does it: this reads the plugins, and what they guard.
        with initialize_config_dir(str((folder or Path("conf")).resolve()), version_base=None):
            config = compose("config", overrides=overrides)
        OmegaConf.resolve(config)
        return OmegaConf.to_yaml(config)
    except Refused as refused:
        raise RecipeError(refused.message) from None
    except (HydraException, OmegaConfBaseException) as error:
        raise RecipeError(" ".join(str(error).split())) from None


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m remerge.stages.compose", description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    parser.add_argument("--print", action="store_true", help="show the text, write nothing")
    parser.add_argument("--conf", type=Path, help="the folder of configuration (default: conf)")
    parser.add_argument("overrides", nargs="*", help="as after -S of `dvc exp run`")
    options = parser.parse_args()
    try:
        _compose(options)
    except Exception as error:
        fail(error)


def _compose(options: argparse.Namespace) -> None:
    path = Path("params.yaml")
    text = composed(options.overrides, options.conf)
    if options.print:
        print(text, end="", flush=True)
    elif not options.check:
        write_text(path, text)
    elif not path.exists() or path.read_text() != text:
        raise RecipeError("params.yaml is not what conf/ composes to; run `make params`")


if __name__ == "__main__":
    main()
