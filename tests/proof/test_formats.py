"""verify-format: a file is what its model gives, or the tensors that are not are named."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from remerge.cli import main
from remerge.errors import CheckpointError
from remerge.proof.formats import verify_format
from remerge.quantize import quantize
from remerge.quantize.gguf.header import read_gguf_header
from tests.quantize.conftest import make_llama, tiny_llama  # noqa: F401  fixtures

KINDS = ["gguf_q8_0", "gguf_f16", "ggml_q5_1"]


def file_of(folder: Path) -> Path:
    return next(folder.glob("model.g*"))


@pytest.mark.parametrize("name", KINDS)
def test_a_file_of_ours_is_equal(
    name: str,
    tiny_llama: Path,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    quantize(tiny_llama, tmp_path / "q", name)
    file = file_of(tmp_path / "q")
    assert main(["verify-format", str(file), "--from", str(tiny_llama), "--threads", "2"]) == 0
    assert capsys.readouterr().out.endswith(f"equal: 39 tensors are what {tiny_llama} gives\n")


@pytest.mark.parametrize("name", KINDS)
def test_a_changed_block_is_told_by_tensor_and_number(
    name: str,
    tiny_llama: Path,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    quantize(tiny_llama, tmp_path / "q", name)
    file = file_of(tmp_path / "q")
    data = bytearray(file.read_bytes())
    data[-600] ^= 1
    file.write_bytes(data)
    assert main(["verify-format", str(file), "--from", str(tiny_llama)]) == 1
    said = capsys.readouterr().out
    line = r"output\.weight \w+: 1 of \d+ blocks differ, numbers by up to [\d.e-]+\n"
    assert re.match(line, said)
    assert said.endswith("DIFFERS: 1 differences in 39 tensors\n")


def test_a_file_of_another_model_differs(
    make_llama: Callable[..., Path],  # noqa: F811
    tiny_llama: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    quantize(make_llama(initializer_range=0.05), tmp_path / "q", "gguf_q8_0")
    found = verify_format(file_of(tmp_path / "q"), tiny_llama, 2)
    assert len(found.differences) == 30 and not found.notes
    assert found.differences[0].startswith("token_embd.weight Q8_0: ")


def test_another_rotary_base_in_the_metadata_is_told(
    make_llama: Callable[..., Path],  # noqa: F811
    tiny_llama: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    other = make_llama(rope_parameters={"rope_type": "default", "rope_theta": 5000.0})
    quantize(other, tmp_path / "q", "gguf_q8_0")
    found = verify_format(file_of(tmp_path / "q"), tiny_llama, 2)
    assert found.differences == ("metadata llama.rope.freq_base: another value than in the model",)


def test_a_gguf_is_derived_from_a_gguf(tiny_llama: Path, tmp_path: Path) -> None:  # noqa: F811
    quantize(tiny_llama, tmp_path / "f16", "gguf_f16", name="one")
    source = file_of(tmp_path / "f16")
    quantize(source, tmp_path / "q", "gguf_q5_0")
    assert verify_format(file_of(tmp_path / "q"), source, 2).differences == ()
    quantize(tiny_llama, tmp_path / "other", "gguf_q5_0", name="two")
    found = verify_format(file_of(tmp_path / "other"), source, 2)
    assert found.differences == ("metadata general.name: another value than in the model",)


def test_a_missing_and_a_foreign_tensor_are_told(tiny_llama: Path, tmp_path: Path) -> None:  # noqa: F811
    quantize(tiny_llama, tmp_path / "f16", "gguf_f16")
    file = file_of(tmp_path / "f16")
    data = file.read_bytes()
    assert "blk.2.ffn_up.weight" in read_gguf_header(file)
    file.write_bytes(data.replace(b"blk.2.ffn_up.weight", b"blk.2.ffn_xx.weight"))
    found = verify_format(file, tiny_llama, 2)
    assert found.differences == (
        "blk.2.ffn_up.weight: is missing",
        "blk.2.ffn_xx.weight: the model has no such tensor",
    )


def test_what_cannot_be_derived_is_refused(tiny_llama: Path, tmp_path: Path) -> None:  # noqa: F811
    import gguf

    writer = gguf.GGUFWriter(tmp_path / "i.gguf", "llama")
    writer.add_string("quantize.imatrix.file", "imatrix.dat")
    writer.add_tensor("output.weight", np.zeros((2, 32), np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(CheckpointError, match="made with an importance matrix"):
        verify_format(tmp_path / "i.gguf", tiny_llama)
    (tmp_path / "text").write_text("no model at all, but long enough for a header of nine numbers")
    with pytest.raises(CheckpointError, match="does not begin as a GGML file"):
        verify_format(tmp_path / "text", tiny_llama)
