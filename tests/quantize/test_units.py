"""Encoded tensors made as units of work fill a container with the bytes of the direct path."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import pytest

from remerge.errors import ToolError
from remerge.quantize import quantize
from remerge.quantize.blocks import units
from remerge.shards.units import Plan, TensorRecord, build_shards

FORMATS = ["gguf_q4_k_m", "ggml_q5_1"]


@pytest.fixture(autouse=True)
def small_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(units, "SHARD_BYTES", 300_000)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def as_another_process(plan: Plan, folder: Path, threads: int) -> list[TensorRecord]:
    """`build_shards`, of a plan that has travelled."""
    travelled: Plan = pickle.loads(pickle.dumps(plan))
    assert len(travelled.shards) > 5
    return build_shards(travelled, folder, threads)


@pytest.mark.parametrize("name", [*FORMATS, "gguf_f16"])
def test_the_files_are_those_of_the_direct_path(
    name: str, tiny_llama: Path, tmp_path: Path
) -> None:
    quantize(tiny_llama, tmp_path / "direct", name)
    scratch = tmp_path / "scratch"
    quantize(tiny_llama, tmp_path / "units", name, make_shards=as_another_process, scratch=scratch)
    assert files(tmp_path / "units") == files(tmp_path / "direct")
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize("name", FORMATS)
def test_an_interrupted_format_goes_on_where_it_was(
    name: str, tiny_llama: Path, tmp_path: Path
) -> None:
    quantize(tiny_llama, tmp_path / "direct", name)
    scratch, out = tmp_path / "scratch", tmp_path / "units"
    kept: dict[Path, int] = {}

    def interrupted(plan: Plan, folder: Path, threads: int) -> list[TensorRecord]:
        build_shards(plan, folder, threads, only=range(3))
        kept.update({path: path.stat().st_ino for path in folder.glob("*.safetensors")})
        raise KeyboardInterrupt

    def resumed(plan: Plan, folder: Path, threads: int) -> list[TensorRecord]:
        records = build_shards(plan, folder, threads)
        assert {path: path.stat().st_ino for path in kept} == kept
        return records

    with pytest.raises(KeyboardInterrupt):
        quantize(tiny_llama, out, name, make_shards=interrupted, scratch=scratch)
    assert len(kept) == 3
    assert not out.exists() or not list(out.iterdir())
    quantize(tiny_llama, out, name, make_shards=resumed, scratch=scratch)
    assert files(out) == files(tmp_path / "direct")
    assert list(scratch.iterdir()) == []


def test_units_of_another_model_are_not_taken_over(
    make_llama: Callable[..., Path], tiny_llama: Path, tmp_path: Path
) -> None:
    scratch, out = tmp_path / "scratch", tmp_path / "units"

    def interrupted(plan: Plan, folder: Path, threads: int) -> list[TensorRecord]:
        build_shards(plan, folder, threads)
        raise KeyboardInterrupt

    other = make_llama(initializer_range=0.05)
    with pytest.raises(KeyboardInterrupt):
        quantize(other, out, "gguf_q8_0", make_shards=interrupted, scratch=scratch)
    quantize(tiny_llama, out, "gguf_q8_0", make_shards=build_shards, scratch=scratch)
    quantize(tiny_llama, tmp_path / "direct", "gguf_q8_0")
    assert files(out) == files(tmp_path / "direct")
    assert list(scratch.iterdir()) == [], "what was begun for this output is swept with it"


@pytest.mark.parametrize("name", FORMATS)
def test_a_unit_that_changed_after_it_was_made_ends_in_no_file(
    name: str, tiny_llama: Path, tmp_path: Path
) -> None:
    scratch, out = tmp_path / "scratch", tmp_path / "units"

    def damaged(plan: Plan, folder: Path, threads: int) -> list[TensorRecord]:
        records = build_shards(plan, folder, threads)
        path = folder / plan.shards[1].file
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
        return records

    says = r"model-00002-of-\d+\.safetensors: tensor 'model\..*' has changed since it was encoded"
    with pytest.raises(ToolError, match=says):
        quantize(tiny_llama, out, name, make_shards=damaged, scratch=scratch)
    assert not out.exists() or not list(out.iterdir())
    quantize(tiny_llama, out, name, make_shards=build_shards, scratch=scratch)
    quantize(tiny_llama, tmp_path / "direct", name)
    assert files(out) == files(tmp_path / "direct")


def test_a_shortened_unit_is_told_too(tiny_llama: Path, tmp_path: Path) -> None:
    def shortened(plan: Plan, folder: Path, threads: int) -> list[TensorRecord]:
        records = build_shards(plan, folder, threads)
        path = folder / plan.shards[-1].file
        path.write_bytes(path.read_bytes()[:-1])
        return records

    with pytest.raises(ToolError, match="has changed since it was encoded"):
        quantize(
            tiny_llama, tmp_path / "q", "ggml_f16", make_shards=shortened, scratch=tmp_path / "s"
        )


@pytest.mark.full
def test_gptq_is_fitted_here_whatever_makes_shards(
    tiny_llama: Path, text: Path, tmp_path: Path
) -> None:
    def never(plan: Plan, folder: Path, threads: int) -> list[TensorRecord]:
        raise AssertionError

    quantize(tiny_llama, tmp_path / "q", "gptq_4bit_128g", calibration=text, make_shards=never)
    assert (tmp_path / "q" / "manifest.json").exists()
