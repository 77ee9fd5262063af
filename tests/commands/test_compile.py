"""All kernels are compiled beforehand, so that no verb compiles for half a minute."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.quantize.conftest import save_llama, write_text


def remerge(cache: Path, *arguments: object) -> str:
    done = subprocess.run(
        ["remerge", *map(str, arguments)],
        env={**os.environ, "NUMBA_CACHE_DIR": str(cache)},
        cwd=cache.parent,
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.mark.full
def test_verbs_compile_nothing_after_compile(tmp_path: Path) -> None:
    import torch

    cache = tmp_path / "cache"
    first = remerge(cache, "compile")
    assert "all kernels are compiled" in first
    kept = {path.name for path in cache.rglob("*.nbc")}
    assert len(kept) > 30
    base = save_llama(tmp_path / "base", num_hidden_layers=1)
    half = save_llama(tmp_path / "half", num_hidden_layers=1, dtype=torch.bfloat16)
    wide = save_llama(tmp_path / "wide", num_hidden_layers=1, dtype=torch.float32)
    text = write_text(tmp_path / "text.txt")
    said = ""
    for dtype in ("float16", "bfloat16", "float32"):
        out = tmp_path / dtype
        said += remerge(cache, "ties", base, half, wide, "--dtype", dtype, "--out", out)
    said += remerge(cache, "gradient", half, wide, 0, 1, "--out", tmp_path / "blend")
    said += remerge(cache, "diff", tmp_path / "float16", tmp_path / "float16")
    formats = ["exact", "gptq_4bit_128g", "gptq_4bit_128g_actorder"]
    made = ["--out", tmp_path / "q", "--calibration", text]
    for model in (tmp_path / "float16", tmp_path / "bfloat16"):
        said += remerge(cache, "quantize", model, *formats, *made[:1], model / "q", *made[2:])
    assert "compiling" not in said
    assert {path.name for path in cache.rglob("*.nbc")} == kept
