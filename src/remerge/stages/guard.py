"""What may stand in `conf/` and behind `-S`: plain values, plain interpolation, our own resolvers.

A recipe may come from anybody, and what it composes to is committed and pushed. So nothing in it
may read the machine (`${oc.env:HF_TOKEN}`, `${now:}`), another folder (`../x`, `hydra.searchpath`)
or grow without bound. Hydra resolves some interpolations while it composes, and shows their values
in its errors: all of this is refused before it begins, and once more in what was composed.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from remerge.errors import RecipeError, printable
from remerge.yaml_text import parse_yaml

#: The resolvers that this project registers.
RESOLVERS = frozenset({"derived"})
#: Derived tables that conf/config.yaml must ask for: they read, and so check, all that is written.
REQUIRED = ("pins", "places", "composed")
#: The table by which a project with a stage a node is known, and what it must ask for.
PROJECT = "nodes"
REQUIRED_OF_PROJECTS = ("pins", PROJECT, "composed")
_FILE_LIMIT = 4_000_000
_SECRET_NAME = re.compile(
    r"TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL|API_?KEY|ACCESS_?KEY", re.IGNORECASE
)


def forget_resolvers() -> None:
    """Take from OmegaConf the resolvers that read the machine or call code."""
    for name in ("oc.env", "oc.decode", "oc.create"):
        OmegaConf.clear_resolver(name)


def check_files(conf: Path) -> None:
    """RecipeError for a file of `conf` that Hydra must not read.

    Args:
        conf: The folder of configurations; every YAML file below it is read.
    """
    for path in sorted(conf.rglob("*")):
        if path.is_symlink() and not path.resolve().is_relative_to(conf.resolve()):
            raise RecipeError(f"{path}: is a link out of {conf}; refused")
        if path.suffix in (".yaml", ".yml") and path.is_file():
            # As in the project, wherever this copy of it lies.
            _check_file(path, str(Path(conf.name) / path.relative_to(conf)))


def _check_file(path: Path, where: str) -> None:
    try:
        with path.open("rb") as opened:
            data = opened.read(_FILE_LIMIT + 1)
        if len(data) > _FILE_LIMIT:
            raise ValueError(f"longer than {_FILE_LIMIT} bytes")
        value = parse_yaml(data, scalar=lambda text: check_text(text, where))
    except (OSError, ValueError) as error:
        raise RecipeError(f"{where}: {' '.join(str(error).split())}") from None
    if re.search(rb"^#\s*@package\s+\S*hydra", data, re.MULTILINE):
        raise RecipeError(f"{where}: configures Hydra itself; only parameters may stand in conf/")
    if not isinstance(value, Mapping):
        return
    for key in value:
        if str(key).split(".")[0] == "hydra":
            raise RecipeError(
                f"{where}: configures Hydra itself; only parameters may stand in conf/"
            )
    defaults = value.get("defaults")
    for text in _texts(defaults) if isinstance(defaults, list) else ():
        _check_option(text, f"{where}: defaults")


def _check_option(text: str, where: str) -> None:
    """RecipeError for an option of a group that lies outside of `conf/`, or is Hydra's own."""
    parts = re.split(r"[/\s@:]", text)
    if ".." in parts or "hydra" in parts or re.search(r"@[\w.]*hydra", text):
        raise RecipeError(f"{where}: {printable(text, 80)!r} is no option of a group of conf/")


def check_overrides(overrides: Sequence[str]) -> None:
    """RecipeError for an override that reads the machine, or that changes how is composed."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    for text in overrides:
        check_text(text, "-S")
        try:
            override = OverridesParser.create().parse_override(text)
        except (HydraException, RecursionError):
            continue  # Hydra says what is wrong with it
        key = override.key_or_group.lstrip("/")
        if re.split(r"[./@]", key)[0] == "hydra" or "hydra" in (override.package or "").split("."):
            raise RecipeError(f"-S {printable(text, 80)}: configures Hydra itself; refused")
        if key.split(".")[0] in {*REQUIRED, *REQUIRED_OF_PROJECTS}:
            raise RecipeError(
                f"-S {printable(text, 80)}: is derived from the recipe and cannot be set"
            )
        for value in _texts(override.value()):
            check_text(value, "-S")
            if "." not in key and (value.startswith("/") or ".." in value.split("/")):
                raise RecipeError(f"-S {printable(text, 80)}: is no option of a group of conf/")


def check_arguments(arguments: Sequence[str]) -> None:
    """RecipeError for `dvc exp run -S conf/x.yaml:key=value`, which DVC writes itself, unchecked.

    By then DVC has resolved the value, an environment variable in it too, and changed the file. It
    puts back a file that git knows when the composition ends with an error.

    Args:
        arguments: Those of DVC's command line.
    """
    parser = argparse.ArgumentParser(add_help=False, exit_on_error=False)
    parser.add_argument("-S", "--set-param", action="append", default=[])
    try:
        given = parser.parse_known_args(arguments)[0].set_param
    except (argparse.ArgumentError, SystemExit):
        return  # DVC has read them in another way: this is not its command line
    for text in given:
        file, colon, _ = text.partition("=")[0].partition(":")
        if colon and file != "params.yaml":
            raise RecipeError(
                f"-S {printable(file, 80)}:…: DVC writes this into the file itself, where nothing "
                "checks it; edit the file, or set the parameter (-S key=value). If git does not "
                "know the file, look into it before you commit it"
            )


def check_composed(config: DictConfig) -> None:
    """RecipeError for what is composed and not yet resolved: a last look, wherever it came from."""
    plain = OmegaConf.masked_copy(config, [key for key in config if key != "hydra"])
    raw = OmegaConf.to_container(plain, resolve=False)
    assert isinstance(raw, dict)
    for key in REQUIRED_OF_PROJECTS if PROJECT in raw else REQUIRED:
        if raw.get(key) != f"${{derived:{key}}}":
            raise RecipeError(
                f"conf/config.yaml: `{key}: ${{derived:{key}}}` is missing, by which the "
                "parameters are checked"
            )
    secrets = _secrets()
    for text in _texts(raw):
        check_text(text, "conf/")
        if any(secret in text for secret in secrets):
            raise RecipeError("the parameters hold a secret of the environment; nothing is written")


def check_text(text: str, where: str) -> None:
    """RecipeError for an interpolation by any but our own resolvers, or an escaped one.

    `${name:…}` calls a resolver and `${name}` does not; a name may itself hold interpolations.
    """
    if re.search(r"\\\$\{|\$\\+\{", text):
        raise RecipeError(f"{where}: {printable(text, 80)!r} escapes an interpolation; refused")
    opened: list[int] = []
    position = 0
    while position < len(text):
        if text.startswith("${", position):
            opened.append(position + 2)
            position += 2
            continue
        if opened and text[position] == ":":
            name = text[opened[-1] : position].strip()
            if name not in RESOLVERS:
                raise RecipeError(
                    f"{where}: {printable(text, 80)!r} asks for {printable(name, 40)!r}, which may "
                    "read this machine; a recipe holds plain values and references such as "
                    "${recipe.base}"
                )
        elif opened and text[position] == "}":
            opened.pop()
        position += 1


def _texts(value: Any) -> Iterator[str]:
    """All texts in a value, keys included."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, str):
            yield item
        elif isinstance(item, Mapping):
            waiting += [*item.keys(), *item.values()]
        elif isinstance(item, (list, tuple)):
            waiting += item
        elif hasattr(item, "text") and isinstance(item.text, str):  # Hydra's quoted string
            yield item.text


def _secrets() -> list[str]:
    """Values of the environment that no file may hold."""
    return [
        value.strip()
        for name, value in os.environ.items()
        if _SECRET_NAME.search(name) and len(value.strip()) >= 12
    ]
