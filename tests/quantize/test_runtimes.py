"""Every format of a trained model, in the program that people run it in, answers as the model does.

At some hundred positions of answers, with the right answer so far given: how often another token is
the likeliest than in the unquantized model (greedy agreement), and how far the distribution is from
its (Kullback-Leibler divergence, in nats).
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from contextlib import closing
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import sentencepiece

from remerge.quantize import quantize
from remerge.quantize.formats import FORMATS
from tests.quantize.runtimes import PACKAGES, Transformers, load

EMBEDDED = Path(__file__).parents[2] / "embedded"
MODEL = EMBEDDED / "sources" / "sorting"
#: Format → mean divergence and number of other choices, as measured.
MEASURED = {
    "gguf_f16": (0.0, 0),
    "gguf_bf16": (0.0, 0),
    "gguf_q8_0": (3.00e-05, 0),
    "gguf_q4_0": (4.48e-03, 3),
    "gguf_q5_0": (6.61e-04, 0),
    "gguf_q4_k_m": (2.56e-03, 3),
    "gguf_q5_k_m": (1.00e-03, 0),
    "gguf_q6_k": (7.47e-04, 0),
    "ggml_f16": (4.05e-06, 0),
    "ggml_q4_0": (4.86e-03, 4),
    "ggml_q5_1": (7.78e-04, 1),
    "ggml_q8_0": (2.74e-05, 0),
    "gguf_q5_1": (7.45e-04, 0),
    "gguf_q5_k_s": (9.70e-04, 0),
    "gguf_q4_1": (2.91e-03, 0),
    "gguf_q4_k_s": (2.49e-03, 3),
    "gguf_iq4_nl": (1.85e-03, 2),
    "gguf_iq4_xs": (1.92e-03, 2),
    "gguf_q3_k_l": (7.36e-03, 3),
    "gguf_q3_k_m": (7.73e-03, 3),
    "gguf_q3_k_s": (6.54e-03, 5),
    "gguf_q2_k": (6.27e-02, 8),
    "ggml_q6_k": (2.99e-03, 2),
    "ggml_q5_k_m": (3.89e-03, 2),
    "ggml_q5_k_s": (3.89e-03, 2),
    "ggml_q5_0": (5.41e-04, 1),
    "ggml_q4_1": (3.29e-03, 1),
    "ggml_q4_k_m": (3.28e-03, 2),
    "ggml_q4_k_s": (3.09e-03, 2),
    "ggml_q3_k_l": (8.67e-03, 4),
    "ggml_q3_k_m": (7.14e-03, 4),
    "ggml_q3_k_s": (4.55e-03, 4),
    "ggml_q2_k": (7.56e-03, 4),
    "gptq_8bit": (1.10e-06, 0),
    "gptq_8bit_actorder": (3.49e-06, 0),
    "gptq_8bit_128g": (1.86e-06, 0),
    "gptq_8bit_128g_actorder": (9.11e-07, 0),
    "gptq_4bit_32g": (2.49e-04, 0),
    "gptq_4bit_32g_actorder": (2.48e-04, 0),
    "gptq_4bit_128g": (6.81e-04, 0),
    "gptq_4bit_128g_actorder": (2.18e-04, 1),
}
#: What a runtime's own arithmetic, in float32 or less, adds to a divergence.
NOISE = 4e-6
QUESTIONS = 3


def positions() -> list[list[int]]:
    """What stands before each token of each answer, for questions of every skill."""
    tokenizer = sentencepiece.SentencePieceProcessor(model_file=str(MODEL / "tokenizer.model"))
    found = []
    for path in sorted((EMBEDDED / "evaluation").glob("*.jsonl")):
        for line in path.read_text().splitlines()[:QUESTIONS]:
            item = json.loads(line)
            asked = tokenizer.encode(item["prompt"])
            whole = tokenizer.encode(item["prompt"] + item["answer"])
            assert whole[: len(asked)] == asked
            found += [[1, *whole[:end]] for end in range(len(asked), len(whole) + 1)]
    return found


@pytest.fixture(scope="module")
def unquantized() -> np.ndarray:
    """Log-probabilities of the model in float64: [positions, vocabulary]."""
    model = Transformers(MODEL, "float64")
    return np.stack([model.log_probabilities(prompt) for prompt in positions()])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folder = tmp_path_factory.mktemp("formats")

    @cache
    def make(name: str) -> Path:
        quantize(MODEL, folder / name, name, calibration=EMBEDDED / "calibration.txt", threads=2)
        return folder / name

    return make


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if form.default else pytest.mark.full)
        for name, form in FORMATS.items()
    ],
)
def test_a_format_runs_and_stays_as_close_as_it_is_known_to(
    unquantized: np.ndarray, made: Callable[[str], Path], name: str
) -> None:
    if importlib.util.find_spec(PACKAGES[FORMATS[name].container]) is None:
        pytest.skip("the runtimes are an extra")
    with closing(load(made(name))) as model:
        found = np.stack([model.log_probabilities(prompt) for prompt in positions()])
    divergence = float((np.exp(unquantized) * (unquantized - found)).sum(axis=1).mean())
    others = int((found.argmax(axis=1) != unquantized.argmax(axis=1)).sum())
    known, known_others = MEASURED[name]
    assert known / 1.5 - NOISE <= divergence <= known * 1.5 + NOISE
    assert others <= known_others * 1.5


@pytest.mark.parametrize("name", ["gguf_f16", "gguf_bf16", "ggml_f16"])
def test_sixteen_bits_continue_as_the_model_does(made: Callable[[str], Path], name: str) -> None:
    if importlib.util.find_spec(PACKAGES[FORMATS[name].container]) is None:
        pytest.skip("the runtimes are an extra")
    original = Transformers(MODEL, "float64")
    with closing(load(made(name))) as model:
        for prompt in positions()[::20]:
            assert model.continue_greedily(prompt, 6) == original.continue_greedily(prompt, 6)
