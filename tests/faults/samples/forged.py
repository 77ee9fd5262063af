"""Model folders that pose as the model that a card names; each is a folder with a manifest."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from remerge.tensors.model_id import model_id
from remerge.tensors.safetensors import read_header
from tests.faults.samples import sample
from tests.proof.models import llama, save

#: A program that a folder asks to be run leaves this file.
MARK = "ran"
_KIND = "forged model"


def genuine(path: Path) -> str:
    """A sound model folder; returns its id."""
    save(path, llama(1))
    return manifest(path)


def manifest(path: Path, **more: Any) -> str:
    """Write a manifest that fits the files as they are, apart from `more`."""
    weights = path / "model.safetensors"
    data, tensors = weights.read_bytes(), read_header(weights)
    start = min(info.offset for info in tensors.values())
    said = {
        name: {
            "dtype": info.dtype,
            "shape": list(info.shape),
            "sha256": hashlib.sha256(data[info.offset : info.offset + info.nbytes]).hexdigest(),
        }
        for name, info in tensors.items()
    }
    files: dict[str, Any] = {
        file.relative_to(path).as_posix(): {
            "size": file.stat().st_size,
            "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        }
        for file in path.rglob("*")
        if file.is_file() and not file.is_symlink() and file.name != "manifest.json"
    }
    files["model.safetensors"] = {
        "size": len(data),
        "header_sha256": hashlib.sha256(data[:start]).hexdigest(),
        "tensors": list(tensors),
    }
    lines = [(n, t["dtype"], t["shape"], t["sha256"]) for n, t in said.items()]
    content = {"model_id": model_id(lines), "files": files, "tensors": said} | more
    (path / "manifest.json").write_text(json.dumps(content))
    return str(content["model_id"])


@sample(_KIND)
def negated_behind_the_header(path: Path) -> None:
    """Keeps the right bytes where the manifest says, and has the header point to negated ones."""
    genuine(path)
    weights = path / "model.safetensors"
    data, tensors = weights.read_bytes(), read_header(weights)
    start = min(info.offset for info in tensors.values())
    right = data[start:]
    negated = (np.frombuffer(right, "<u2") ^ 0x8000).tobytes()
    header: dict[str, Any] = {
        name: {
            "dtype": info.dtype,
            "shape": list(info.shape),
            "data_offsets": [info.offset - start, info.offset - start + info.nbytes],
        }
        for name, info in tensors.items()
    }
    header["x"] = {
        "dtype": "U8",
        "shape": [len(right)],
        "data_offsets": [len(right), 2 * len(right)],
    }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    before = len(text).to_bytes(8, "little") + text + negated
    weights.write_bytes(before + right)
    content = json.loads((path / "manifest.json").read_text())
    entry = content["files"]["model.safetensors"]
    entry["header_sha256"] = hashlib.sha256(before).hexdigest()
    entry["size"] = len(before) + len(right)
    (path / "manifest.json").write_text(json.dumps(content))


@sample(_KIND)
def names_exchanged(path: Path) -> None:
    """Exchanges the names of two tensors of one shape in the header alone."""
    genuine(path)
    weights = path / "model.safetensors"
    stated = (path / "manifest.json").read_text()
    content = json.loads(stated)
    data = weights.read_bytes()
    for a, b in ((b"q_proj", b"Q_proj"), (b"k_proj", b"q_proj"), (b"Q_proj", b"k_proj")):
        data = data.replace(a, b)
    weights.write_bytes(data)
    length = 8 + int.from_bytes(data[:8], "little")
    entry = content["files"]["model.safetensors"]
    entry["header_sha256"] = hashlib.sha256(data[:length]).hexdigest()
    (path / "manifest.json").write_text(json.dumps(content))


@sample(_KIND)
def second_weights(path: Path) -> None:
    """Lists a pickle beside the genuine weights, which some loaders read first."""
    genuine(path)
    (path / "pytorch_model.bin").write_bytes(b"other weights")
    manifest(path)


@sample(_KIND)
def second_shards(path: Path) -> None:
    """Lists another safetensors file, which loaders that read all of them load as well."""
    genuine(path)
    (path / "consolidated.safetensors").write_bytes((path / "model.safetensors").read_bytes())
    manifest(path)


@sample(_KIND)
def config_names_weights(path: Path) -> None:
    """Has a config.json that names another file of weights (transformers_weights)."""
    genuine(path)
    config = json.loads((path / "config.json").read_text())
    config["transformers_weights"] = "subfolder/other.safetensors"
    (path / "config.json").write_text(json.dumps(config))
    manifest(path)


@sample(_KIND)
def adapter_redirects(path: Path) -> None:
    """Lists an adapter_config.json, by which transformers loads another base model instead."""
    genuine(path)
    text = json.dumps({"base_model_name_or_path": "evil/model"})
    (path / "adapter_config.json").write_text(text)
    manifest(path)


@sample(_KIND)
def link_to_a_folder(path: Path) -> None:
    """Holds a link to a folder outside, whose files no list names."""
    genuine(path)
    (path / "code").symlink_to("/etc")


@sample(_KIND)
def link_in_place_of_a_file(path: Path) -> None:
    """Has a link in place of its config, whose target can be exchanged later."""
    genuine(path)
    (path / "config.json").rename(path.with_name(f"{path.name}.config"))
    (path / "config.json").symlink_to(f"../{path.name}.config")


@sample(_KIND)
def subfolder_with_a_manifest(path: Path) -> None:
    """Holds a subfolder that no list names, with a manifest of its own."""
    genuine(path)
    (path / "code").mkdir()
    (path / "code/modeling.py").write_text("print()")
    (path / "code/manifest.json").write_text('{"files": {}}')


@sample(_KIND)
def pipe(path: Path) -> None:
    """Holds a FIFO, at which a reader waits for ever."""
    genuine(path)
    os.mkfifo(path / "tokenizer.json")


@sample(_KIND)
def case_twins_of_a_file(path: Path) -> None:
    """Lists Config.json beside config.json, which are one file on some disks."""
    genuine(path)
    (path / "Config.json").write_text("{}")
    manifest(path)


@sample(_KIND)
def versions_in_the_lock(path: Path) -> None:
    """Lies in a DVC project whose lock records versions of a remote, with other digests."""
    genuine(path)
    (path.parent / ".dvc").mkdir(exist_ok=True)
    files = ", ".join(
        f'{{"relpath": "{n}", "md5": "{"0" * 32}"}}' for n in ("config.json", "model.safetensors")
    )
    out = f'{{"path": "{path.name}", "files": [{files}]}}'
    (path.parent / "dvc.lock").write_text(f'{{"stages": {{"s": {{"outs": [{out}]}}}}}}')


@sample(_KIND)
def project_with_a_program(path: Path) -> None:
    """Lies in a DVC project with a program called dvc, a hydra.py and damaged weights."""
    genuine(path)
    program = f"open({str(path.with_name(MARK))!r}, 'w')\n"
    (path.parent / ".dvc").mkdir(exist_ok=True)
    (path.parent / "dvc").mkdir(exist_ok=True)
    for name in ("dvc/__main__.py", "dvc/__init__.py", "hydra.py", "yaml.py"):
        (path.parent / name).write_text(program)
    out = f'{{"path": "{path.name}", "md5": "{"0" * 32}.dir", "hash": "md5"}}'
    (path.parent / "dvc.lock").write_text(f'{{"stages": {{"s": {{"outs": [{out}]}}}}}}')
