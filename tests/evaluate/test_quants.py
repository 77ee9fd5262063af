"""Quants of a model that has learned something answer as it does, each in its own runtime."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from remerge.evaluate import Suite, score, suite_from_params
from remerge.quantize import quantize

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "embedded" / "sources" / "sorting"
ITEMS = 15


@pytest.fixture(scope="module")
def suite() -> Suite:
    text = (ROOT / "conf" / "eval" / "skills.yaml").read_text()
    values = yaml.safe_load(text.replace("${eval.data}", str(ROOT / "embedded" / "evaluation")))
    return suite_from_params({**values, "limit": ITEMS})


@pytest.fixture(scope="module")
def scores(suite: Suite, tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    scores: dict[str, float] = score(MODEL, suite, tmp_path_factory.mktemp("s") / "m")["scores"]
    assert sum(scores.values()) > 2, "this model should know some answers"
    return scores


@pytest.mark.parametrize(
    ("form", "runtime"),
    [
        ("gguf_f16", "xllamacpp"),
        ("gguf_q8_0", "xllamacpp"),
        ("ggml_f16", "ctransformers"),
    ],
)
def test_a_quant_of_eight_bits_or_more_scores_as_the_model_does(
    suite: Suite,
    scores: dict[str, float],
    tmp_path: Path,
    form: str,
    runtime: str,
) -> None:
    pytest.importorskip(runtime, reason="the runtimes are an extra")
    quantize(MODEL, tmp_path / "q", form)
    found = score(tmp_path / "q", suite, tmp_path / "scores")["scores"]
    for name, value in scores.items():
        # Half precision may tip one answer of a skill.
        assert abs(found[name] - value) <= 1 / ITEMS + 1e-4, name


@pytest.mark.full
def test_a_gptq_folder_is_scored_by_transformers_like_any_other(
    suite: Suite, scores: dict[str, float], tmp_path: Path
) -> None:
    pytest.importorskip("compressed_tensors", reason="GPTQ is an extra")
    calibration = ROOT / "embedded" / "calibration.txt"
    quantize(MODEL, tmp_path / "q", "gptq_4bit_128g", threads=1, calibration=calibration)
    found = score(tmp_path / "q", suite, tmp_path / "scores")["scores"]
    differences = [abs(found[name] - value) for name, value in scores.items()]
    assert sum(differences) / len(differences) < 0.1
