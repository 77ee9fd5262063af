"""What happens when Hydra composes `conf/`, within `dvc exp run` and in `stages.compose` alike.

Hydra knows no schema: it refuses a key that is new and accepts any value of one that is not. Here
an override with a dotted key sets what it names, and the schema of the parameters says whether
that exists. Whatever is wrong ends the composition as one line.
"""

from __future__ import annotations

import copy
import json
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from remerge.errors import RecipeError, RemergeError, printable
from remerge.evaluate.suite import suite_from_params
from remerge.recipes import project
from remerge.recipes.derive import DERIVED, derive
from remerge.recipes.pins import read_pins
from remerge.recipes.preflight import check_formats_here
from remerge.recipes.schema import (
    Quantize,
    Recipe,
    nearest_setting,
    pins_names,
    read_recipe,
    read_section,
)
from remerge.recipes.tables import Tables
from remerge.schema import nearest
from remerge.stages.composed import KEY, overrides_in, record
from remerge.stages.guard import (
    PROJECT,
    check_arguments,
    check_composed,
    check_files,
    check_overrides,
    forget_resolvers,
)

#: What other parts of the configuration refer to and a recipe may lack.
_EXAMPLES = {"recipe.prompt": "raw", "recipe.title": "My-Model"}
_ORIGINAL = ConfigLoaderImpl.load_configuration
#: The folder of configuration that was composed last, where `conf/pins` is found.
_conf = Path("conf")
#: What that composition was given and has read.
_overrides: list[str] = []
_read: set[Path] = set()


class Refused(SystemExit):
    """The end of a composition: the one way past OmegaConf and DVC that leaves one line."""

    def __init__(self, error: RemergeError) -> None:
        super().__init__(f"error: {error}")
        self.message = str(error)


def install() -> None:
    """Give Hydra the resolver `derived` and our reading of overrides."""
    OmegaConf.register_new_resolver("derived", _derived, replace=True)
    ConfigLoaderImpl.load_configuration = _load


def written_and_derived(config: DictConfig, conf: Path) -> dict[str, Any]:
    """Derive the tables of a composed configuration; RecipeError for what is wrong in it."""
    whole = copy.deepcopy(config)
    is_project = PROJECT in whole
    derived = project.DERIVED if is_project else DERIVED
    OmegaConf.set_struct(whole, False)
    with open_dict(whole):
        for key in {*derived, KEY, "hydra"} & set(map(str, whole)):
            del whole[key]
    try:
        params = OmegaConf.to_container(whole, resolve=True)
    except OmegaConfBaseException as error:
        raise RecipeError(_interpolation(error, whole)) from None
    assert isinstance(params, dict)
    if is_project:
        return _project_tables(params, conf)
    return _tables(json.dumps(params, default=str), params, conf)


_cached: tuple[tuple[str, str], dict[str, Any]] | None = None


def _tables(text: str, params: dict[str, Any], conf: Path) -> dict[str, Any]:
    """The derived tables, computed once for all keys of one composition."""
    global _cached
    if _cached is None or _cached[0] != (text, str(conf)):
        evaluation = params.get("eval")
        if not isinstance(evaluation, dict):
            raise RecipeError("eval is missing; choose a suite such as eval=skills")
        suite = suite_from_params(evaluation)
        names = [*pins_names(read_recipe(params.get("recipe"))), suite.name]
        pins = read_pins(conf / "pins", list(dict.fromkeys(names)))
        derived = derive(params, pins)
        settings = read_section(Quantize, params, "quantize")
        tables = Tables.model_validate({key: derived[key] for key in Tables.model_fields})
        check_formats_here(tables, settings, pins, Path())
        _cached = ((text, str(conf)), derived)
    return _cached[1]


def _project_tables(params: dict[str, Any], conf: Path) -> dict[str, Any]:
    """The derived tables of a project with a stage a node."""
    pins = read_pins(conf / "pins", pins_names(read_recipe(params.get("recipe"))))
    return project.derive_project(params, pins)


def _derived(key: str, *, _root_: DictConfig) -> Any:
    """The value of `${derived:KEY}`."""
    if key == KEY:
        return OmegaConf.create(_record(_root_))
    try:
        return OmegaConf.create(written_and_derived(_root_, _conf)[key])
    except RemergeError as error:
        raise Refused(error) from None


def _record(root: DictConfig) -> dict[str, Any]:
    """What `params.yaml` is composed of, with the digest of all other values."""
    whole = copy.deepcopy(root)
    OmegaConf.set_struct(whole, False)
    with open_dict(whole):
        for key in {KEY, "hydra"} & set(map(str, whole)):
            del whole[key]
    OmegaConf.resolve(whole)
    evaluation = whole.get("eval") or {}
    names = [
        *pins_names(read_recipe(OmegaConf.to_container(whole.recipe))),
        *([evaluation["suite"]] if "suite" in evaluation else []),
    ]
    pins = {_conf / "pins" / f"{name}.yaml" for name in names}
    files = _read | {path for path in pins if path.is_file()}
    return record(OmegaConf.to_yaml(whole), _overrides, files, _conf)


@contextmanager
def _recording(loader: ConfigLoaderImpl, paths: set[Path]) -> Iterator[None]:
    """Note the files that Hydra reads meanwhile; it copies its sources, but not their class."""
    kind = next(type(s) for s in loader.repository.get_sources() if s.scheme() == "file")
    original = kind.load_config

    def load_config(source: Any, config_path: str) -> Any:
        result = original(source, config_path)
        paths.add(Path(source.path) / source._normalize_file_name(config_path))
        return result

    kind.load_config = load_config
    try:
        yield
    finally:
        kind.load_config = original


def _note_dropped(overrides: list[str]) -> None:
    """Say which choice of the last composition this one, by `dvc exp run`, does not repeat."""
    keys = {override.partition("=")[0].lstrip("+~") for override in overrides}
    dropped = [
        override
        for override in overrides_in(_conf.parent / "params.yaml")
        if override.partition("=")[0].lstrip("+~") not in keys
    ]
    if dropped and "dvc.repo.experiments" in sys.modules:
        given = printable(" ".join(f"-S {override}" for override in dropped), 300)
        sys.stderr.write(
            f"note: composed without {given} of the last time; `remerge use` keeps a choice\n"
        )


def _load(loader: ConfigLoaderImpl, *arguments: Any, **named: Any) -> DictConfig:
    """Compose as Hydra does; for a folder that derives tables, by our rules."""
    conf = _folder_of(loader)
    if conf is None:
        return _ORIGINAL(loader, *arguments, **named)
    global _conf, _overrides, _read
    _conf = conf
    overrides = list(named.pop("overrides", None) or [])
    _overrides, _read = overrides, set()
    try:
        forget_resolvers()
        check_files(conf)
        check_overrides(overrides)
        if "dvc.repo.experiments" in sys.modules:
            check_arguments(sys.argv[1:])
        parsed = [_parsed(override) for override in overrides]
        kept, dropped, lists = [], [], {}
        for override, text in zip(parsed, overrides, strict=True):
            key = override.key_or_group
            dotted = "." in key and "/" not in key and override.package is None
            if dotted and override.type == OverrideType.DEL:
                dropped.append(key)
            elif dotted and isinstance(override.value(), list) and text[0] not in "+~":
                lists[key] = override.value()  # Hydra cannot put a list in place of a table
            elif dotted and override.type == OverrideType.CHANGE:
                kept.append(f"++{text}")
            elif dotted and override.type == OverrideType.ADD:
                kept.append(f"+{text}")
            else:
                kept.append(text)
        with _recording(loader, _read):
            config = _ORIGINAL(loader, *arguments, overrides=kept, **named)
        for key, value in lists.items():
            OmegaConf.update(config, key, value, merge=False, force_add=True)
        for key in dropped:
            _drop(config, key)
        _fill(config)
        check_composed(config)
        written_and_derived(config, conf)
        _note_dropped(overrides)
    except RemergeError as error:
        raise Refused(error) from None
    except MissingConfigException as error:
        raise Refused(RecipeError(_missing(error, loader))) from None
    except (HydraException, OmegaConfBaseException, yaml.YAMLError, OSError, ValueError) as error:
        raise Refused(RecipeError(_line(error, loader))) from None
    return config


def _parsed(override: str) -> Override:
    """An override as Hydra reads it; RecipeError where it is none.

    `dvc exp run -S` reads overrides itself before anything of ours is asked, and says so in its
    own way.
    """
    try:
        return OverridesParser.create().parse_override(override)
    except HydraException as error:
        reason = " ".join(str(error).split()).partition(" See https://hydra.cc")[0]
        raise RecipeError(
            f"{printable(override, 80)}: cannot be read as KEY=VALUE: {reason}; a list is "
            "written 'KEY=[A,B]', in quotes"
        ) from None


def _folder_of(loader: ConfigLoaderImpl) -> Path | None:
    """The folder of a loader, if it is that of a project whose stages are ours.

    Any other program that uses Hydra in this environment composes as if we were not here.
    """
    for source in loader.repository.get_sources():
        if source.provider == "main" and source.scheme() == "file":
            main = Path(source.path) / "config.yaml"
            stages = main.parent.parent / "dvc.yaml"
            marks = ((main, b"${derived:"), (stages, b"remerge.stages."))
            if any(path.is_file() and mark in path.read_bytes() for path, mark in marks):
                return Path(source.path)
    return None


def _drop(config: DictConfig, key: str) -> None:
    """Remove a key; RecipeError, which names the nearest key, where it does not exist."""
    *path, last = key.split(".")
    node: Any = config
    for depth, part in enumerate([*path, last]):
        names = [str(name) for name in node] if isinstance(node, DictConfig) else []
        if part not in names:
            place = ".".join([*path, last][:depth])
            there = ", ".join(names) or "no keys"
            raise RecipeError(
                f"~{printable(key, 80)}: {place or 'the parameters'} has no {part!r}"
                f"{nearest(part, names) or ';'} it has {there}"
            )
        if depth < len(path):
            node = node._get_node(part)
    with open_dict(config):
        del node[last]


def _fill(config: DictConfig) -> None:
    """Write out the default that `dvc.yaml` tracks: DVC wants each parameter in the file."""
    recipe = config.get("recipe")
    if PROJECT not in config and isinstance(recipe, DictConfig) and "shard_bytes" not in recipe:
        with open_dict(recipe):
            recipe.shard_bytes = Recipe.model_fields["shard_bytes"].default


def _missing(error: MissingConfigException, loader: ConfigLoaderImpl) -> str:
    """The message for an option that a group does not have."""
    group, _, option = str(error.missing_cfg_file or "").rpartition("/")
    options = sorted(loader.repository.get_group_options(group, ObjectType.CONFIG) or ())
    if not group or not options:
        return _line(error, loader)
    return (
        f"{printable(group, 80)} has no option {printable(option, 80)!r}"
        f"{nearest(option, options) or ';'} there are {', '.join(options)}"
    )


def _interpolation(error: OmegaConfBaseException, config: DictConfig) -> str:
    """The message for a reference within the configuration that leads nowhere."""
    key = getattr(error, "full_key", None) or "conf"
    reason = " ".join(str(error.msg or error).split()).partition(" full_key")[0]
    missing = re.search(r"Interpolation key '([^']+)' not found", reason)
    if missing is None:
        return f"{key}: {reason}"
    place, _, last = missing[1].rpartition(".")
    table = OmegaConf.select(config, place, default=None) if place else config
    there = [str(name) for name in table] if isinstance(table, DictConfig) else []
    guess = nearest(last, there)
    known = f"; {place or 'conf'} has {', '.join(there)}" if there and not guess else guess
    example = f", such as `{last}: {_EXAMPLES[missing[1]]}`" if missing[1] in _EXAMPLES else ""
    return f"{printable(missing[1], 80)} is missing{example} ({key} refers to it){known}"


def _line(error: BaseException, loader: ConfigLoaderImpl) -> str:
    """What Hydra or its YAML reader says, on one line: file, line, column, reason."""
    reason = " ".join(str(error).split())
    for end in (" Config search path", " To append to your config", " See https://hydra.cc"):
        reason = reason.partition(end)[0]
    if reason.startswith("Could not override '"):
        name = reason.split("'")[1]
        found = loader.repository.get_group_options("", ObjectType.GROUP)
        groups = sorted(set(found) - {"hydra", "pins"})
        return (
            f"{printable(name, 80)} is no group of conf/"
            f"{nearest_setting(name) or nearest(name, groups) or ';'} "
            f"there are {', '.join(groups)}"
        )
    return reason
