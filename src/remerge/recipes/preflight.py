"""What headers, config and tokenizer of the base tell of the formats, before anything is merged.

>>> check_formats(params, recipe, Path("models/base"), "base")

A merge has the base's configuration, tokenizer, names and shapes. So a format that cannot hold the
result is refused when the recipe is composed or planned, or by the first `fetch`, by the same code
that would refuse it after the merges. This only refuses: it decides no byte.
"""

from __future__ import annotations

import importlib
import json
import shutil
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from remerge.architectures.order import state_dict_order
from remerge.errors import CheckpointError, RecipeError, RemergeError, printable
from remerge.recipes.methods import Gradient, GradientSection
from remerge.recipes.pins import Pin, table_of
from remerge.recipes.schema import Quantize, Recipe
from remerge.recipes.tables import Item, Tables
from remerge.sources.files import open_files
from remerge.sources.intake import COMPANIONS
from remerge.sources.pinned import Source, parse_source
from remerge.sources.preflight import Described, Descriptions, Open, describe_model
from remerge.tensors.json_files import read_json

_MANIFEST = "manifest.json"


def check_formats(
    items: Mapping[str, Item], settings: Quantize | None, model: Path, label: str
) -> None:
    """Refuse formats that cannot be made of a model.

    Args:
        items: The items of `quantize_eval`; scores among them are passed over.
        settings: What the formats of each container read.
        model: A folder with the model's config, tokenizer and headers.
        label: What messages call that folder.

    Raises:
        RecipeError: One line with all formats that cannot be made, why, and which can.
    """
    wanted = {name: item for name, item in items.items() if item.kind == "quantize"}
    if not wanted or settings is None:
        return
    reasons: dict[str, list[str]] = {}
    for name, item in wanted.items():
        try:
            _check(name, item, settings, model)
        except RemergeError as error:
            reasons.setdefault(str(error).replace(str(model), label), []).append(name)
    if not reasons:
        return
    refused = [name for names in reasons.values() for name in names]
    said = "; ".join(f"{', '.join(names)}: {reason}" for reason, names in reasons.items())
    left = [name for name in wanted if name not in refused]
    choice = f"'quantize=[{','.join(left)}]'" if left else "quantize=none"
    raise RecipeError(f"quantize: {said}. What can be made: -S {choice}")


def check_formats_of_source(
    tables: Tables, settings: Quantize | None, open_source: Open, source: Source
) -> None:
    """Refuse formats by the small files of the base, wherever it is; RecipeError as above."""
    if not any(item.kind == "quantize" for item in tables.quantize_eval.values()):
        return
    with open_source(source) as files, tempfile.TemporaryDirectory() as folder:
        described = describe_model(files)
        small = files.all(name for name in source.files if name in COMPANIONS)
        _write_outline(Path(folder), described, small)
        check_formats(tables.quantize_eval, settings, Path(folder), f"base {source.name!r}")


def check_order_of_source(
    recipe: Recipe, section: GradientSection, described: Descriptions, source: Source
) -> None:
    """Refuse a gradient over tensors whose order nobody knows, by the small files of the base.

    Args:
        recipe: The recipe; its merges have the base's names and layout.
        section: Defaults of its gradients.
        described: What is known of the sources.
        source: The base.

    Raises:
        RecipeError: Some gradient counts tensors, and the base's architecture is not known.
    """
    counting = [
        name
        for name, node in recipe.merges.items()
        if isinstance(node, Gradient) and (node.along or section.along) == "tensors"
    ]
    if not counting:
        return
    base = described.model(source)
    _, known = state_dict_order(base.config, base.weights)
    if not known:
        model_type = printable(base.config.get("model_type", "missing"), 40)
        raise RecipeError(
            f"recipe.merges.{counting[0]}: the order of the tensors of base {source.name!r} is not "
            f"known (model_type {model_type}), so a gradient cannot count them; count layers: "
            "-S gradient.along=layers"
        )


def check_formats_here(
    tables: Tables, settings: Quantize | None, pins: Mapping[str, Pin], root: Path
) -> None:
    """Refuse formats as far as it is known without a network and without unpickling.

    Args:
        tables: What is derived from the recipe.
        settings: What the formats of each container read.
        pins: The pins of its sources.
        root: The project, in which the base may have been fetched, or be a folder of safetensors.

    Raises:
        RecipeError: As `check_formats` does. A base that cannot be read is no matter here.
    """
    folder = root / tables.places.base
    pin = pins.get(folder.name)
    if pin is None or not pin.files:
        return
    if _is_fetched(folder, pin):
        check_formats(tables.quantize_eval, settings, folder, f"base {folder.name!r}")
        return
    if not pin.path or any(name.endswith((".bin", ".pt", ".pth")) for name in pin.files):
        return
    opened = partial(open_files, root=root, scratch=root / "scratch")
    try:
        source = parse_source(folder.name, table_of(pin))
        with opened(source) as files:
            describe_model(files)
    except (RemergeError, OSError):
        return  # `fetch` says what is wrong with it
    check_formats_of_source(tables, settings, opened, source)


def _check(name: str, item: Item, settings: Quantize, model: Path) -> None:
    own = getattr(settings, item.container)
    # By name: a stage that refuses early does not depend on the code that writes formats.
    produce = importlib.import_module("remerge.quantize.core.produce")
    calibration = Path(own.calibration) if own.calibration else None
    produce.check(model, name, calibration=calibration, prompt=own.prompt or "own")
    if own.measure:
        texts = sorted(Path(own.texts).glob("*.jsonl"))
        if not texts:
            raise RecipeError(f"quantize.{item.container}.texts: {own.texts} holds no .jsonl file")
        quality = importlib.import_module("remerge.quantize.core.perplexity")
        try:
            quality.check_measurable(model, texts)
        except CheckpointError as error:
            raise RecipeError(f"{error} (without measuring: quantize.measure=false)") from None


def _is_fetched(folder: Path, pin: Pin) -> bool:
    """Whether a folder is the model that is pinned, as `fetch` made it."""
    try:
        manifest = read_json(folder / _MANIFEST)
        files = manifest["inputs"][folder.name]["files"]
        changes = manifest["parameters"].get("config") or {}
        dequantized = bool(manifest["parameters"].get("dequantize"))
    except (RemergeError, OSError, LookupError, TypeError, AttributeError):
        return False
    wanted = {name: entry.get("sha256") for name, entry in (pin.files or {}).items()}
    wanted_changes = pin.config or {}
    return bool(files == wanted and changes == wanted_changes and dequantized == pin.dequantize)


def _write_outline(folder: Path, model: Described, small: Mapping[str, Path]) -> None:
    """Write a model's folder whose weights are a header and a hole of their size."""
    for name, path in small.items():
        shutil.copyfile(path, folder / name)
    (folder / "config.json").write_text(json.dumps(model.config))
    header, end = {}, 0
    for name, info in model.weights.items():
        header[name] = {
            "dtype": info.dtype,
            "shape": list(info.shape),
            "data_offsets": [end, end + info.nbytes],
        }
        end += info.nbytes
    text = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
