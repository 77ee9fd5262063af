"""Legacy GGML files: run by ctransformers, and refused for models they cannot describe."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from remerge.errors import CheckpointError, NumericError
from remerge.quantize import quantize
from remerge.quantize.core.llama import LlamaShape
from remerge.quantize.ggml.write import feed_forward_multiple
from tests.quantize.runtimes import load_ggml

PROMPTS = ([1, 259, 300, 286, 310], [1, 280, 290, 301], [1, 320])

runs = pytest.mark.skipif(
    importlib.util.find_spec("ctransformers") is None, reason="ctransformers is not installed"
)


@runs
@pytest.mark.parametrize("prompt", PROMPTS)
def test_f16_continues_in_ctransformers_as_the_model_does_in_transformers(
    tiny_llama: Path, quantized: Callable[[str], Path], greedy, prompt: list[int]
) -> None:
    with closing(load_ggml(quantized("ggml_f16") / "model.ggml")) as model:
        assert model.continue_greedily(prompt, 8) == greedy(tiny_llama, prompt, 8)


@pytest.mark.parametrize("name", ["ggml_f16", "ggml_q5_1"])
def test_bytes_do_not_depend_on_threads(tiny_llama: Path, tmp_path: Path, name: str) -> None:
    reports = [quantize(tiny_llama, tmp_path / str(n), name, threads=n) for n in (1, 3)]
    assert reports[0] == reports[1]


def shape(hidden: int, feed_forward: int) -> LlamaShape:
    return LlamaShape(32, hidden, feed_forward, 1, 4, 4, hidden // 4, 64, 1e4, 1.0, 1e-5, False)


@pytest.mark.parametrize(
    ("hidden", "feed_forward", "multiple"),
    [(256, 768, 256), (4096, 11008, 256), (5120, 13824, 256)],
)
def test_llama_sizes_follow_from_the_usual_multiple(
    hidden: int, feed_forward: int, multiple: int
) -> None:
    assert feed_forward_multiple(shape(hidden, feed_forward), "model") == multiple


def test_a_feed_forward_size_that_no_multiple_gives_is_refused() -> None:
    with pytest.raises(CheckpointError, match="write GGUF instead"):
        feed_forward_multiple(shape(256, 512), "model")


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"num_key_value_heads": 2}, "2 key/value heads"),
        ({"tie_word_embeddings": True}, "tied"),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}, "rotary base 500000"),
    ],
)
def test_what_the_container_has_no_place_for_is_refused(
    make_llama: Callable[..., Path], tmp_path: Path, settings: dict[str, object], what: str
) -> None:
    with pytest.raises(CheckpointError, match=what):
        quantize(make_llama(**settings), tmp_path, "ggml_f16")


def test_infinity_is_refused_and_leaves_nothing(make_llama, tmp_path: Path) -> None:
    from remerge.tensors.checkpoint import open_checkpoint

    folder = make_llama()
    info = open_checkpoint(folder).tensors["lm_head.weight"]
    data = bytearray(info.path.read_bytes())
    data[info.offset : info.offset + 2] = b"\x00\x7c"
    info.path.write_bytes(data)
    with pytest.raises(NumericError, match=r"lm_head\.weight.*inf at index \[0, 0\]"):
        quantize(folder, tmp_path / "out", "ggml_q4_0")
    assert not list((tmp_path / "out").iterdir())
