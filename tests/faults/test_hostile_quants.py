"""Row 116: GGUF and GGML files are read here before any runtime sees them."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from remerge.cli import main
from remerge.errors import CheckpointError
from remerge.evaluate.scoring import Model, require_models
from remerge.quantize.ggml.header import read_ggml_header
from remerge.quantize.gguf.header import read_gguf_header
from remerge.runtimes.loadable import require_runnable
from tests.faults.rows import fault
from tests.faults.samples import SAMPLES, every_sample
from tests.faults.samples.quants import ggml_bytes, gguf_bytes

assert every_sample()
SECONDS = 20.0


def test_the_sound_files_beside_the_samples_are_read(tmp_path: Path) -> None:
    (tmp_path / "sound.gguf").write_bytes(gguf_bytes())
    (tmp_path / "sound.ggml").write_bytes(ggml_bytes())
    assert list(read_gguf_header(tmp_path / "sound.gguf")) == ["w"]
    assert list(read_ggml_header(tmp_path / "sound.ggml")) == ["w"]
    assert require_runnable(tmp_path / "sound.gguf")
    assert require_runnable(tmp_path / "sound.ggml")


@fault(
    116,
    "a GGUF or GGML whose tables claim absurd counts and lengths, unknown types, tensors outside "
    "of the file, in one another or at odd places, or that names further files",
    sees="`error: FILE: damaged GGUF, …: fetch it again` or `error: FILE: is a part of a model …`, "
    "from `chat` and `score` before a runtime has the file",
    then="the same until the file is replaced",
)
@pytest.mark.parametrize(
    ("kind", "name"),
    [(kind, name) for kind in ("gguf table", "ggml table") for name in SAMPLES[kind]],
)
def test_a_table_that_lies_is_refused_before_a_runtime_has_it(
    kind: str, name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / f"model.{kind[:4]}"
    SAMPLES[kind][name](path)
    began = time.monotonic()
    with pytest.raises(CheckpointError) as caught:
        require_models([Model("m", path, tmp_path / "out")])
    line = str(caught.value)
    assert line.startswith(f"{path}: ") and line.isprintable() and len(line) < 400
    assert "damaged" in line or "is a part of a model" in line
    assert main(["chat", str(path), "--raw", "--prompt", "a"]) == 1
    assert capfd.readouterr().err == f"error: {line}\n"
    assert time.monotonic() - began < SECONDS
