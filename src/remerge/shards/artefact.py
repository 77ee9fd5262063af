"""From a plan to a finished folder: shards, index, config, tokenizer, manifest, all or nothing.

>>> build(plan, "merged/p1", companions=companions_of(base), scratch="scratch", threads=8)

Work in progress lies in a scratch folder named after a digest of everything the result depends on,
so the same merge finds its finished shards again and another merge never does. The folder appears
under its final name in one rename.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

from remerge.architectures.compatibility import Note
from remerge.architectures.heads import untied
from remerge.code import PACKAGE, UNITS, digest_of, folder_of
from remerge.errors import CheckpointError
from remerge.files import (
    disk_errors,
    leftovers,
    open_atomic,
    publish_folder,
    require_spaces,
    sha256_of,
    temporary_path,
    write_bytes,
    write_text,
)
from remerge.locks import is_free, sole_writer
from remerge.ownership import own_folder
from remerge.shards.units import Plan, TensorRecord, build_shards, record_path
from remerge.tensors.checkpoint import INDEX_NAME
from remerge.tensors.dtypes import to_torch_name
from remerge.tensors.json_files import json_text, read_json, write_json
from remerge.tensors.layout import Shard, index_of
from remerge.tensors.model_id import model_id

TOKENIZER_FILES = (
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "merges.txt",
    "preprocessor_config.json",
    "processor_config.json",
    "sentencepiece.bpe.model",
    "special_tokens_map.json",
    "spiece.model",
    "tekken.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "video_preprocessor_config.json",
    "vocab.json",
    "vocab.txt",
)
#: Those of them that belong to images, sound or video beside the text.
PROCESSOR_FILES = (
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
)
#: Those of tokenizers and templates that only some architectures have.
_OTHER_VOCABULARIES = (
    "chat_template.json",
    "sentencepiece.bpe.model",
    "spiece.model",
    "tekken.json",
    "vocab.txt",
)
_SETTINGS_FILES = ("generation_config.json", "adapter_config.json")
#: A file cannot have two names here: other disks, no such thing, forbidden, or too many already.
_NO_LINKS = (errno.EXDEV, errno.EOPNOTSUPP, errno.ENOSYS, errno.EPERM, errno.EMLINK)
_CONFIG_NOISE = (
    "_name_or_path",
    "transformers_version",
    "auto_map",
    "torch_dtype",
    "quantization_config",
    "compression_config",
)
#: Entries that nested parts of config.json lose: the type is written anew, nothing is quantized.
_NESTED_NOISE = ("torch_dtype", "quantization_config", "compression_config")

#: In a folder of work in progress: the path of what it is to become.
_TARGET = "target"

#: Makes a plan's shards in a folder with so many threads, as `build_shards` does.
MakeShards = Callable[[Plan, Path, int], list[TensorRecord]]


class ArtefactPlan(Plan, Protocol):
    """A plan that can say in its manifest what it depends on."""

    @property
    def notes(self) -> tuple[Note, ...]:
        """Lines of the manifest: what was dropped or changed on the way in."""

    @property
    def unties(self) -> bool:
        """Whether the output head is a matrix of its own now, which config.json has to say."""

    def parameters(self) -> dict[str, Any]:
        """The settings, without paths."""

    def inputs(self) -> dict[str, dict[str, Any]]:
        """Identity of every input folder, by label."""

    def details(self) -> Any:
        """What else decides the bytes, as JSON, for the resume key and not for the manifest."""


def code_digest(plan: ArtefactPlan) -> str:
    """SHA-256 over the source of everything that decides the bytes of this plan's result."""
    module = str(sys.modules[type(plan).__module__].__file__)
    if not Path(module).resolve().is_relative_to(PACKAGE):  # a plan of somebody else's program
        return digest_of(*UNITS) + sha256_of(Path(module))
    return digest_of(folder_of(module), *UNITS)


def resume_key(plan: ArtefactPlan) -> str:
    """The name of the plan's scratch folder: a digest of inputs, parameters, layout and code."""
    layout = [[s.file, hashlib.sha256(s.header).hexdigest()] for s in plan.shards]
    described = [plan.parameters(), plan.inputs(), plan.details(), layout, code_digest(plan)]
    return hashlib.sha256(json_text(described).encode()).hexdigest()[:32]


def build(
    plan: ArtefactPlan,
    out: Path | str,
    *,
    companions: Mapping[str, Path],
    scratch: Path | str,
    threads: int,
    config_changes: Mapping[str, Any] | None = None,
    make_shards: MakeShards = build_shards,
) -> dict[str, Any]:
    """Run `plan` into the folder `out`, with the config and tokenizer files in `companions`.

    companions      paths by file name, as `companions_of` gives them for a model folder
    config_changes  entries of config.json to set
    make_shards     where the work is done: by threads of this process, or by a cluster; either
                    leaves the same files in the scratch folder

    Returns the manifest that was written. `out` must not exist (an empty folder may); on any error
    it does not appear, and finished shards wait in `scratch` for the next attempt.
    """
    out, work = Path(out), Path(scratch) / resume_key(plan)
    require_new(out)
    for name in ("config.json", *_SETTINGS_FILES):
        if name in companions:  # refused before the work, not after it
            read_json(companions[name])
    notes = [*plan.notes, *_code_notes(companions), *_copy_notes(companions)]
    dtype = _torch_dtype(plan)
    with ExitStack() as held:
        with disk_errors(f"{plan.label}: {out}", out):
            held.enter_context(sole_writer(out, plan.label))
            require_new(out)  # another process may have made it in the meantime
        with disk_errors(f"{plan.label}: {work}", work):
            held.enter_context(sole_writer(work, plan.label, wait=True))
            work = own_folder(work)
        missing = [s for s in plan.shards if not record_path(work / s.file).exists()]
        require_spaces(_needs(plan.shards, missing, work, out), plan.label)
        with disk_errors(f"{plan.label}: {work}", work):
            write_text(work / _TARGET, str(out.resolve()))
        records = make_shards(plan, work, threads)
        for leftover in leftovers(out):
            shutil.rmtree(leftover, ignore_errors=True)
        staging = temporary_path(out)
        try:
            with disk_errors(f"{plan.label}: {out}", staging):
                staging.mkdir(parents=True)
                for shard in plan.shards:
                    _link_or_copy(work / shard.file, staging / shard.file)
                if len(plan.shards) > 1:
                    write_json(staging / INDEX_NAME, index_of(plan.shards))
                _write_companions(companions, staging, dtype, config_changes or {}, plan.unties)
                manifest = _manifest(plan, notes, records, staging)
                write_json(staging / "manifest.json", manifest)
                publish_folder(staging, out)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        shutil.rmtree(work, ignore_errors=True)
        _sweep(Path(scratch), out)
    return manifest


def require_new(out: Path) -> None:
    """CheckpointError where something lies in the place of the result; an empty folder may."""
    if os.path.lexists(out) and (not out.is_dir() or any(out.iterdir())):
        raise CheckpointError(f"{out} exists; remove it or choose another place")


def _sweep(scratch: Path, out: Path) -> None:
    """Remove the work of attempts at `out` from other inputs, which nobody goes on with.

    Nothing else would: once a damaged source is repaired, its digest leads to another folder.
    """
    for note in scratch.glob(f"*/{_TARGET}"):
        try:
            stale = note.read_text() == str(out.resolve())
        except (OSError, ValueError):
            continue
        if stale and is_free(note.parent):
            shutil.rmtree(note.parent, ignore_errors=True)


def _torch_dtype(plan: Plan) -> str:
    """What config.json calls the type of the weights, which is that of the first."""
    first = next((tensor for shard in plan.shards for tensor in shard.tensors), None)
    if first is None:
        raise CheckpointError(f"{plan.label}: there are no weights")
    return to_torch_name(first.dtype)


def _needs(
    shards: Sequence[Shard], missing: Sequence[Shard], work: Path, out: Path
) -> list[tuple[Path, int]]:
    """Bytes still to be written, by folder: all of them twice where `out` is on another disk."""
    needs = [(work, sum(shard.nbytes for shard in missing))]
    if _device(work) != _device(out.parent):
        needs.append((out.parent, sum(shard.nbytes for shard in shards)))
    return needs


def _device(folder: Path) -> int:
    """The disk on which `folder` is or will be."""
    folder = folder.resolve()
    while not folder.exists():
        folder = folder.parent
    return folder.stat().st_dev


def _link_or_copy(source: Path, target: Path) -> None:
    """Give the finished file `source` a second name, on another disk a flushed copy."""
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        with source.open("rb") as reader, open_atomic(target) as writer:
            shutil.copyfileobj(reader, writer, 1 << 22)


def companions_of(folder: Path | str) -> dict[str, Path]:
    """The files of a model folder, by name; CheckpointError for what only poses as one of ours."""
    found = {}
    for path in sorted(Path(folder).iterdir()):
        if path.is_file():
            found[path.name] = path
        elif path.name in ("config.json", *_SETTINGS_FILES, *TOKENIZER_FILES):
            raise CheckpointError(f"{path}: not a regular file; put the file in its place")
    return found


def _code_notes(companions: Mapping[str, Path]) -> list[Note]:
    """A note for a tokenizer that asks for remote code: its files are copied byte for byte."""
    name = "tokenizer_config.json"
    if name not in companions or "auto_map" not in read_json(companions[name]):
        return []
    text = (
        "asks for code of its own (auto_map) and is passed on as it is; the code is not, and runs "
        "nowhere unless a reader of the model is told to trust it"
    )
    return [Note("tokenizer", name, text)]


def _copy_notes(companions: Mapping[str, Path]) -> list[Note]:
    """A note for each file that is the first model's, whatever the others have."""
    text = "copied from the first model, byte for byte"
    kinds = (("processor", PROCESSOR_FILES), ("tokenizer", _OTHER_VOCABULARIES))
    return [Note(kind, n, text) for kind, names in kinds for n in names if n in companions]


def _write_companions(
    files: Mapping[str, Path],
    folder: Path,
    torch_dtype: str,
    changes: Mapping[str, Any],
    unties: bool,
) -> None:
    """Config in canonical form, and tokenizer files byte for byte, from `files` into `folder`."""
    if "config.json" in files:
        config = read_json(files["config.json"])
        for key in _CONFIG_NOISE:
            config.pop(key, None)
        config = _agreeing(config, torch_dtype) | {"dtype": torch_dtype, **changes}
        write_json(folder / "config.json", untied(config) if unties else config)
    for name in _SETTINGS_FILES:
        if name in files:
            settings = read_json(files[name])
            settings.pop("transformers_version", None)
            write_json(folder / name, settings)
    for name in TOKENIZER_FILES:
        if name in files:
            write_bytes(folder / name, files[name].read_bytes())


def _agreeing(config: Mapping[str, Any], torch_dtype: str) -> dict[str, Any]:
    """The config with its nested parts saying the type that was written, and no quantization."""
    result: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            part = {k: v for k, v in value.items() if k not in _NESTED_NOISE}
            if value.get("dtype") is not None or value.get("torch_dtype") is not None:
                part["dtype"] = torch_dtype
            value = _agreeing(part, torch_dtype)
        result[key] = value
    return result


def _manifest(
    plan: ArtefactPlan, notes: Sequence[Note], records: Sequence[TensorRecord], folder: Path
) -> dict[str, Any]:
    """Shards are known by their header and tensors, which were hashed on the way out."""
    shards: dict[str, Any] = {
        shard.file: {
            "size": shard.nbytes,
            "header_sha256": hashlib.sha256(shard.header).hexdigest(),
            "tensors": [t.name for t in shard.tensors],
        }
        for shard in plan.shards
    }
    companions = {
        path.name: {
            "size": path.stat().st_size,
            "sha256": sha256_of(path),
        }
        for path in sorted(folder.iterdir())
        if path.name not in shards
    }
    return {
        "format": "remerge-manifest-1",
        "class": "exact",
        "model_id": model_id((r.name, r.dtype, r.shape, r.sha256) for r in records),
        "parameters": plan.parameters(),
        "inputs": {
            label: {} if "folder" in identity else identity
            for label, identity in plan.inputs().items()
        },
        "notes": [[note.model, note.tensor, note.text] for note in notes],
        "files": shards | companions,
        "order": [record.name for record in records],
        "tensors": {
            record.name: {
                "dtype": record.dtype,
                "shape": list(record.shape),
                "sha256": record.sha256,
                **({"statistics": record.statistics} if record.statistics else {}),
            }
            for record in records
        },
    }
