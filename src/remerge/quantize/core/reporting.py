"""What a quantization made: the numbers for the metrics and the `manifest.json` beside the file."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from remerge.files import sha256_of
from remerge.quantize.core.format import Format
from remerge.quantize.core.request import Request
from remerge.tensors.json_files import read_json, write_json
from remerge.tensors.model_id import model_id
from remerge.tensors.safetensors import TensorInfo

CHUNK = 1 << 22


@dataclass(frozen=True)
class QuantReport:
    """One quantized model. `file` is the weights' name in the output folder, `sha256` its digest.

    `size` counts bytes of that file, `bits_per_weight` is 8·size / number of weights, so metadata
    and tokenizer count too. `tensor_types` says how many tensors became what, `notes` what was done
    to the vocabulary and the chat template. `name` is what the result calls the model.
    """

    format: str
    container: str
    class_: str
    runtime: str
    file: str
    sha256: str
    size: int
    weights: int
    bits_per_weight: float
    tensor_types: dict[str, int]
    notes: tuple[str, ...] = field(default=())
    name: str = "model"


def digests_of(path: Path, tensors: Mapping[str, TensorInfo]) -> tuple[str, dict[str, str]]:
    """Digests of a whole file and of each tensor in it, by one reading."""
    whole, digests = hashlib.sha256(), {}
    with path.open("rb") as file, ThreadPoolExecutor(1) as beside:

        def read(nbytes: int, part: hashlib._Hash | None) -> None:
            while chunk := file.read(min(CHUNK, nbytes)):
                done = beside.submit(whole.update, chunk)
                if part is not None:
                    part.update(chunk)
                done.result()
                nbytes -= len(chunk)

        for name, info in sorted(tensors.items(), key=lambda item: item[1].offset):
            read(info.offset - file.tell(), None)
            part = hashlib.sha256()
            read(info.nbytes, part)
            digests[name] = part.hexdigest()
        read(path.stat().st_size - file.tell(), None)
    return whole.hexdigest(), digests


@dataclass(frozen=True)
class Written:
    """A file of weights that was written.

    Attributes:
        file: Its name in the output folder.
        weights: How many weights it has.
        tensor_types: How many tensors became what.
        notes: What was done to the vocabulary and the chat template.
        others: Names of further files beside it.
        tensors: Those of the file, as its reader finds them.
    """

    file: str
    weights: int
    tensor_types: Mapping[str, int]
    notes: Sequence[str] = ()
    others: Sequence[str] = ()
    tensors: Mapping[str, TensorInfo] | None = None


def write_report(
    folder: Path,
    form: Format,
    written: Written,
    *,
    name: str = "model",
    request: Request | None = None,
) -> QuantReport:
    """Describe a file of weights in `folder` and write `manifest.json`.

    The digests of its tensors and the model id, which is theirs and not that of the model they were
    made of, go into the manifest. So does what `request` asked for: the model by its id, the
    settings, the calibration text by its digest.
    """
    file, tensors = written.file, written.tensors
    sha256, digests = digests_of(folder / file, tensors or {})
    size = (folder / file).stat().st_size
    files = {
        each: {"sha256": sha256_of(folder / each), "size": (folder / each).stat().st_size}
        for each in written.others
    }
    files[file] = {"sha256": sha256, "size": size}
    report = QuantReport(
        form.name,
        form.container,
        form.class_,
        form.runtime,
        file,
        sha256,
        size,
        written.weights,
        round(8 * size / written.weights, 4),
        dict(sorted(written.tensor_types.items())),
        tuple(written.notes),
        name,
    )
    manifest = asdict(report)
    manifest["class"] = manifest.pop("class_")
    manifest["files"] = files
    if request is not None:
        manifest |= {"inputs": _inputs(request), "parameters": _parameters(request)}
    if tensors is not None:
        manifest["tensors"] = {
            name: {"dtype": info.dtype, "shape": list(info.shape), "sha256": digests[name]}
            for name, info in tensors.items()
        }
        manifest["model_id"] = model_id(
            (name, info.dtype, info.shape, digests[name]) for name, info in tensors.items()
        )
    write_json(folder / "manifest.json", manifest)
    return report


def _inputs(request: Request) -> dict[str, dict[str, str]]:
    """The model by its id where a manifest of this library says it, elsewhere by its name alone.

    A model in one file is identified by its digest as well.
    """
    if request.model.is_file():
        return {request.model.name: {"sha256": sha256_of(request.model)}}
    manifest = request.model / "manifest.json"
    said = read_json(manifest).get("model_id") if manifest.is_file() else None
    return {request.model.resolve().name: {"model_id": said} if isinstance(said, str) else {}}


def _parameters(request: Request) -> dict[str, Any]:
    asked: dict[str, Any] = {"method": "quantize", "name": request.name, "prompt": request.prompt}
    if request.calibration is not None and request.form.container == "gptq":  # others read none
        asked["calibration_sha256"] = sha256_of(request.calibration)
    if request.form.container == "gguf" and not request.description.says_nothing():
        asked["description"] = request.description.known()
    return asked
