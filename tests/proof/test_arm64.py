"""x86-64 and arm64 make the same bytes: every merge, every block type, GPTQ, every container."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.proof.emulator import Unavailable, emulator, environment
from tests.proof.models import HIDDEN, encode, llama, save

ROOT = Path(__file__).parents[2]
pytestmark = [
    pytest.mark.full,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(platform.machine() != "x86_64", reason="this is not x86-64"),
]


def make_inputs(folder: Path) -> Path:
    """Models of three types (one with extra rows), an adapter, what is quantised, a whole Llama.

    Made once, here: the random numbers themselves may differ between machines.
    """
    save(folder / "base", llama(0))
    save(folder / "f16", llama(1))
    save(folder / "f32", llama(3, "F32"))
    random = np.random.default_rng(4)
    longer = llama(2, "BF16")
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        dtype, values = longer[name]
        extra = encode(random.normal(0, 0.05, (3, HIDDEN)), dtype)
        longer[name] = (dtype, np.concatenate([values, extra]))
    save(folder / "bf16", longer)
    adapter = {}
    for layer in range(2):
        for part in ("q", "v"):
            stem = f"base_model.model.model.layers.{layer}.self_attn.{part}_proj"
            for half, shape in (("A", (4, HIDDEN)), ("B", (HIDDEN, 4))):
                values = random.normal(0, 0.1, shape).astype("<f4")
                adapter[f"{stem}.lora_{half}.weight"] = ("F32", values)
    save(folder / "adapter", adapter)
    (folder / "adapter/model.safetensors").rename(folder / "adapter/adapter_model.safetensors")
    (folder / "adapter/config.json").unlink()
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 6, "target_modules": ["q_proj", "v_proj"]}
    (folder / "adapter/adapter_config.json").write_text(json.dumps(config))
    normal = random.normal(0, 0.02, 256 * 32).astype("<f4")
    constant = np.repeat(np.float32([0, -0.0, 0.5, -0.5, 3e-8, -6e-6, 1e-20, 200]), 256)
    ties = np.sign(normal[: 256 * 4]) * np.float32(0.125)
    wide = normal[: 256 * 4] * np.repeat(np.float32([1e-4, 1e-3, 1, 1e3]), 256)
    np.save(folder / "values.npy", np.concatenate([normal, constant, ties, wide]).astype("<f4"))
    mixed = random.standard_normal((512, 256)) @ random.standard_normal((256, 256))
    mixed *= random.lognormal(sigma=1.0, size=256)
    np.save(folder / "hessian.npy", mixed.T @ mixed / len(mixed))
    np.save(folder / "weight.npy", random.standard_normal((24, 256)).astype("<f4"))
    shutil.copytree(ROOT / "embedded/sources/sorting", folder / "model")
    return folder


def run(command: list[str], inputs: Path, work: Path, variables: dict[str, str]) -> dict:
    arguments = ["-m", "tests.proof.machine_digests", str(inputs), str(work)]
    done = subprocess.run(
        [*command, *arguments], cwd=ROOT, env=variables, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_every_kernel_equals_its_formula_here(tmp_path: Path) -> None:
    own = os.environ | {"PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}
    found = run([sys.executable], make_inputs(tmp_path / "inputs"), tmp_path / "work", own)
    assert set(found["digests"]) == {
        *("merges", "formulas", "blocks", "GPTQ", "formats", "distances")
    }


def test_arm64_makes_the_bytes_of_x86_64(tmp_path: Path) -> None:
    inputs = make_inputs(tmp_path / "inputs")
    own = os.environ | {"PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}
    here = run([sys.executable], inputs, tmp_path / "x86-64", own)
    try:
        command = emulator()
    except Unavailable as reason:
        pytest.skip(f"no arm64 emulation: {reason}")
    there = run(command, inputs, tmp_path / "arm64", environment())
    assert (here["machine"], there["machine"]) == ("x86_64", "aarch64")
    assert there["digests"] == here["digests"]
