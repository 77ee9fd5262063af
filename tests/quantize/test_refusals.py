"""What no format does silently: other arithmetic, another model, files only their maker reads."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from remerge.errors import CheckpointError, RecipeError
from remerge.quantize import quantize

NAMES = ("gguf_q4_0", "ggml_q4_0", "gptq_4bit_128g")

FLUSHED = """
import sys
from pathlib import Path
import torch
from remerge.errors import ToolError
from remerge.quantize import quantize
torch.set_flush_denormal(True)
model, out, name, text = sys.argv[1:]
try:
    quantize(model, out, name, calibration=text)
except ToolError as error:
    print(error)
"""


@pytest.mark.parametrize("name", NAMES)
def test_a_processor_that_flushes_small_numbers_to_zero_is_refused(
    tiny_llama: Path, tmp_path: Path, text: Path, name: str
) -> None:
    source = str(Path(__file__).parents[2] / "src")
    command = [sys.executable, "-c", FLUSHED, tiny_llama, tmp_path / "out", name, text]
    done = subprocess.run(
        list(map(str, command)),
        env={**os.environ, "PYTHONPATH": source},
        check=True,
        capture_output=True,
        text=True,
    )
    assert "flush subnormal numbers to zero" in done.stdout
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'; .* silu"),
        ({"model_type": "bloom"}, "model_type is 'bloom'"),
    ],
)
def test_another_architecture_is_refused_in_one_line(
    tiny_llama: Path, tmp_path: Path, text: Path, name: str, change: dict[str, str], says: str
) -> None:
    folder = Path(shutil.copytree(tiny_llama, tmp_path / "m"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(CheckpointError, match=says) as caught:
        quantize(folder, tmp_path / "out", name, calibration=text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", NAMES)
def test_a_model_without_a_sentencepiece_tokenizer_is_refused(
    tiny_llama: Path, tmp_path: Path, text: Path, name: str
) -> None:
    folder = Path(shutil.copytree(tiny_llama, tmp_path / "m"))
    (folder / "tokenizer.model").unlink()
    with pytest.raises(CheckpointError, match=r"no tokenizer\.model and no tokenizer\.json"):
        quantize(folder, tmp_path / "out", name, calibration=text)


@pytest.mark.parametrize("name", NAMES)
def test_every_file_is_for_all_to_read_whatever_the_umask(
    tiny_llama: Path, tmp_path: Path, text: Path, name: str
) -> None:
    before = os.umask(0o077)
    try:
        quantize(tiny_llama, tmp_path / "out", name, calibration=text)
    finally:
        os.umask(before)
    files = list((tmp_path / "out").iterdir())
    assert len(files) >= 2
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o644}


def test_a_prompt_is_refused_before_anything_is_fitted(
    tiny_llama: Path, tmp_path: Path, text: Path
) -> None:
    with pytest.raises(RecipeError, match="'chatml'"):
        quantize(tiny_llama, tmp_path / "out", NAMES[2], calibration=text, prompt="chatml")
    assert not (tmp_path / "out").exists()
