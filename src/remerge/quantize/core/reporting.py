"""What a quantization made: the numbers for the metrics and the `manifest.json` beside the file."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from remerge.atomic import write_json
from remerge.quantize.core.format import Format

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


def sha256_of(path: Path) -> str:
    """Digest of a file, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def write_report(
    folder: Path,
    form: Format,
    file: str,
    weights: int,
    tensor_types: dict[str, int],
    notes: Sequence[str] = (),
    others: Sequence[str] = (),
    name: str = "model",
) -> QuantReport:
    """Describe `folder / file` and write `manifest.json`; `others` are further files it lists."""
    names = sorted({file, *others})
    digests = {each: sha256_of(folder / each) for each in names}
    sizes = {each: (folder / each).stat().st_size for each in names}
    report = QuantReport(
        form.name,
        form.container,
        form.class_,
        form.runtime,
        file,
        digests[file],
        sizes[file],
        weights,
        round(8 * sizes[file] / weights, 4),
        dict(sorted(tensor_types.items())),
        tuple(notes),
        name,
    )
    manifest = asdict(report)
    manifest["class"] = manifest.pop("class_")
    manifest["files"] = {each: {"sha256": digests[each], "size": sizes[each]} for each in names}
    write_json(folder / "manifest.json", manifest)
    return report
