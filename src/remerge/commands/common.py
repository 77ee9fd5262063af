"""Options that several verbs share."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from remerge.errors import RecipeError

if TYPE_CHECKING:
    from remerge.sources.plain_folders import PlainFolders


def add_output_options(parser: argparse.ArgumentParser) -> None:
    """Where and how a merge is written."""
    parser.add_argument("--out", type=Path, required=True, help="folder to make; must not exist")
    parser.add_argument(
        "--dtype",
        default="float16",
        choices=("float16", "bfloat16", "float32"),
        help="type of the result (default: %(default)s)",
    )
    add_work_options(parser, shard_size="1GB", out="--out")
    add_dequantize_option(parser)


def add_work_options(parser: argparse.ArgumentParser, *, shard_size: str, out: str) -> None:
    """How a merge is computed and split; `out` is what the parser calls the folder to make."""
    parser.add_argument(
        "--shard-size",
        default=shard_size,
        help=f"size limit of an output file, such as 500MB or {shard_size} (default: %(default)s)",
    )
    parser.add_argument(
        "--threads", type=int, help="threads to use (default: all cores; changes no byte)"
    )
    parser.add_argument(
        "--scratch",
        type=Path,
        help=f"where unfinished work is kept for the next attempt (default: .scratch beside {out})",
    )


def add_dequantize_option(parser: argparse.ArgumentParser) -> None:
    """Whether quantized models may be merged."""
    parser.add_argument(
        "--dequantize",
        action="store_true",
        help="merge quantized models (FP8, compressed-tensors, bitsandbytes, MXFP4) by the values "
        "that their weights stand for; without it they are refused",
    )


def plain_folders(options: argparse.Namespace, settings: Mapping[str, Any]) -> PlainFolders:
    """Folders of plain weights for those that the user names.

    Args:
        options: The options; `dequantize` says whether quantized models are taken.
        settings: What `build_options` makes of them.

    Returns:
        A context, at whose end what was dequantized is removed.
    """
    from remerge.sources.plain_folders import PlainFolders

    return PlainFolders(
        Path(settings["scratch"]), dequantize=options.dequantize, threads=settings["threads"]
    )


def add_vocabulary_options(parser: argparse.ArgumentParser) -> None:
    """The vocabulary and chat template of a merge."""
    group = parser.add_argument_group("one vocabulary for all models")
    group.add_argument(
        "--tokenizer",
        metavar="SOURCE",
        help="give all models the tokens of one: `base` (the first model), `union` (the first "
        "model's tokens and after them those of the others), or a model of this merge",
    )
    group.add_argument(
        "--token",
        action="append",
        default=[],
        metavar="TEXT=ROW",
        help="the row of a token in models that lack it: `zero`, a model, or MODEL#TOKEN for that "
        "model's row of another token; may be given again",
    )
    group.add_argument(
        "--force-token",
        action="append",
        default=[],
        metavar="TEXT=ROW",
        help="the same, in models that have the token as well",
    )
    group.add_argument(
        "--pad-to-multiple-of",
        type=int,
        metavar="N",
        help="round the number of rows up to a multiple of N",
    )
    parser.add_argument(
        "--chat-template",
        metavar="NAME",
        help="the result's chat template: a model of this merge that has one, or a known name "
        "such as chatml, llama3 or alpaca (default: that of its tokenizer)",
    )


def tokenizer_choice(options: argparse.Namespace, labels: Mapping[str, str]) -> Any:
    """Read the options of `add_vocabulary_options`.

    Args:
        options: The options.
        labels: The label of each model by the text that named it.

    Returns:
        The TokenizerChoice; None if none was asked for.
    """
    from remerge.merge.token_alignment import TokenizerChoice

    written = [(text, force) for force in (False, True) for text in _tokens(options, force)]
    if not (options.tokenizer or written or options.pad_to_multiple_of):
        return None
    if getattr(options, "vocabulary", None):
        raise RecipeError(
            "--tokenizer, --token and --pad-to-multiple-of give all models one vocabulary; leave "
            "--vocabulary out"
        )
    tokens = dict(_token_rule(text, force, labels) for text, force in written)
    source = options.tokenizer or "base"
    return TokenizerChoice(labels.get(source, source), tokens, options.pad_to_multiple_of)


def _tokens(options: argparse.Namespace, force: bool) -> list[str]:
    found: list[str] = options.force_token if force else options.token
    return found


def _token_rule(text: str, force: bool, labels: Mapping[str, str]) -> tuple[str, Any]:
    from remerge.merge.token_alignment import TokenRule

    token, equals, row = text.rpartition("=")
    if not equals or not token or not row:
        raise RecipeError(
            f"token {text!r} is not of the form TEXT=zero, TEXT=MODEL or …=MODEL#TOKEN"
        )
    if row == "zero":
        return token, TokenRule("zero", force=force)
    model, hash_sign, other = row.partition("#")
    model = labels.get(model, model)
    if hash_sign:
        return token, TokenRule("model_token", model, other, force)
    return token, TokenRule("model", model, force=force)


def build_options(options: argparse.Namespace) -> dict[str, Any]:
    """The keyword arguments of `build` that `add_output_options` gathers."""
    from remerge.threads import thread_count

    return {
        "scratch": options.scratch or options.out.parent / ".scratch",
        "threads": thread_count(options.threads),
    }


def read_params(path: Path = Path("params.yaml")) -> dict[str, Any]:
    """The parameters that the pipeline is composed of; RecipeError without a recipe's sources."""
    return describe(read_composed(path), str(path))


def read_composed(path: Path = Path("params.yaml")) -> Any:
    """The parameters as they were composed, derived tables included; RecipeError without them."""
    from remerge.yaml_text import read_yaml

    try:
        return read_yaml(path)
    except OSError as error:
        raise RecipeError(f"{path}: {error.strerror}; name a recipe") from None
    except ValueError as error:
        raise RecipeError(f"{path}: {' '.join(str(error).split())}; compose it again") from None


def describe(params: object, where: str = "params.yaml") -> dict[str, Any]:
    """Describe composed parameters with folders and pins; RecipeError where they are not sound."""
    from remerge.recipes.described import described, pins_of

    if not isinstance(params, dict) or "recipe" not in params:
        raise RecipeError(f"{where}: holds no recipe; compose it again")
    try:
        return described(params, pins_of(params))
    except RecipeError as error:
        raise RecipeError(f"{where}: {error}") from None


def compose(overrides: list[str], conf: Path | None = None) -> str:
    """Compose parameters by the pipeline's own command: the library knows nothing of Hydra.

    Args:
        overrides: As after `-S` of `dvc exp run`.
        conf: The folder of configuration, `conf` by default.

    Returns:
        The text of `params.yaml`.

    Raises:
        RecipeError: What does not compose.
    """
    import subprocess
    import sys

    # With -P a `hydra.py` that lies here is not imported: this may be a downloaded folder.
    command = [sys.executable, "-P", "-m", "remerge.stages.compose", "--print"]
    if conf is not None:
        command += ["--conf", str(conf)]
    command += ["--", *overrides]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["it said nothing"]
        raise RecipeError(lines[-1].removeprefix("error: "))
    return done.stdout


def parse_size(text: str) -> int:
    """Bytes in `500MB`, `1GB` or a plain number; decimal units."""
    units = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "B": 1, "": 1}
    number = text.rstrip("KMGBkmgb")
    unit = text[len(number) :].upper()
    if unit not in units or not number.isdecimal() or int(number) < 1:
        raise RecipeError(f"size {text!r} is not a number of bytes such as 500MB or 1GB")
    return int(number) * units[unit]


def model_id_option(text: str) -> str:
    """A model id, for argparse."""
    from remerge.tensors.model_id import parse_model_id

    try:
        return parse_model_id(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
