"""A disk that does not hold a format is told before the work, one that fills up as one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from remerge.errors import ToolError
from remerge.files import free_bytes
from remerge.quantize import quantize
from tests.faults.conftest import small_disk

PAGE = 4096


@pytest.mark.parametrize("name", ["gguf_f16", "ggml_q5_1", "gptq_4bit_128g"])
def test_a_format_that_does_not_fit_is_not_begun(
    name: str, tiny_llama: Path, text: Path, tmp_path: Path
) -> None:
    with small_disk(tmp_path / "small", megabytes=1) as room:
        with pytest.raises(ToolError, match=rf"{name} needs \d\d?\.\d\d MB in .*are free"):
            quantize(tiny_llama, room / "out", name, calibration=text)
        assert [p for p in room.rglob("*") if p.is_file()] == []


def test_a_disk_that_fills_up_is_one_line_that_names_the_format(
    tiny_llama: Path, tmp_path: Path
) -> None:
    size = quantize(tiny_llama, tmp_path / "elsewhere", "gguf_q4_0").size
    with small_disk(tmp_path / "small", megabytes=64) as room:
        ballast = free_bytes(room) - (size // PAGE + 2) * PAGE  # all but the manifest fits
        (room / "ballast").write_bytes(bytes(ballast))
        says = "gguf_q4_0: No space left on device .*; make room and run it again"
        with pytest.raises(ToolError, match=says):
            quantize(tiny_llama, room / "out", "gguf_q4_0")
