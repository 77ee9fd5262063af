"""A GGUF file is scored by llama.cpp and agrees with the model that it was made from."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from remerge.errors import CheckpointError, ToolError
from remerge.evaluate import score, suite_from_params
from remerge.tensors.json_files import write_json
from tests.evaluate.leaderboard import leaderboard_on
from tests.evaluate.reference import ReferenceLlama

pytest.importorskip("xllamacpp", reason="the runtimes are an extra")


def quantized(folder: Path, out: Path, form: str = "gguf_f16") -> Path:
    from remerge.quantize import quantize

    quantize(folder, out, form)
    return out


@pytest.fixture(scope="module")
def gguf_folder(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return quantized(model_folder, tmp_path_factory.mktemp("quantized") / "f16")


def skills(folder: Path, answers: list[str], **changes: Any) -> Any:
    lines = [
        json.dumps({"prompt": f"what is {i}?", "answer": answer})
        for i, answer in enumerate(answers)
    ]
    (folder / "items.jsonl").write_text("\n".join(lines) + "\n")
    task = {
        "kind": "skill",
        "data": str(folder / "items.jsonl"),
        "metric": "exact_match",
        "max_new_tokens": 6,
    }
    return suite_from_params({"suite": "skills", "tasks": {"count": task}, **changes})


def test_distributions_are_those_of_the_model_to_half_precision(
    model_folder: Path, gguf_folder: Path, tmp_path: Path
) -> None:
    from remerge.evaluate.llama_cpp import load_gguf

    model = load_gguf(gguf_folder / "model.gguf", skills(tmp_path, ["a"]))
    tokens = [1, 40, 300, 77, 12]
    logits = ReferenceLlama(model_folder).logits(tokens)[-1]
    expected = logits - logits.max() - np.log(np.exp(logits - logits.max()).sum())
    found = model.next_token(tokens)
    assert np.exp(found).sum() == pytest.approx(1, abs=1e-4)
    assert np.abs(found - expected).max() < 0.05


def test_texts_are_tokenized_as_the_model_does(
    model_folder: Path, gguf_folder: Path, tmp_path: Path
) -> None:
    import transformers

    from remerge.evaluate.llama_cpp import load_gguf

    model = load_gguf(gguf_folder / "model.gguf", skills(tmp_path, ["a"]))
    tokenizer = transformers.AutoTokenizer.from_pretrained(model_folder)
    for text in ("what is 3 + 4? =", "Question: how many\nAnswer:", "ünknown"):
        assert model.tok_encode(text) == tokenizer.encode(text)
        bare = tokenizer.encode(text, add_special_tokens=False)
        assert model.tok_encode(text, add_special_tokens=False) == bare


def test_answers_are_generated_up_to_the_stop_string(
    make_chain: Callable[[list[str]], Path], tmp_path: Path
) -> None:
    model = quantized(make_chain(["?", "▁ten", "▁of", "<0x0A>", "▁the"]), tmp_path / "q")
    result = score(model, skills(tmp_path, ["ten of", "ten", "ten of"]), tmp_path / "scores")
    assert result["scores"] == {"count": round(2 / 3, 4)}


def test_benchmarks_of_log_likelihoods_run_on_a_quant(
    model_folder: Path, gguf_folder: Path, tmp_path: Path
) -> None:
    suite = leaderboard_on(tmp_path / "datasets", "winogrande", "mmlu", subjects=2)
    folders = {"model": model_folder, "gguf": gguf_folder}
    found = {}
    for name, folder in folders.items():
        score(folder, suite, tmp_path / "scores" / name)
        lines = []
        for task in ("winogrande", "mmlu.abstract_algebra", "mmlu.anatomy"):
            file = tmp_path / "scores" / "whole" / name / f"{task}.jsonl"
            lines += [json.loads(line) for line in file.read_text().splitlines()]
        found[name] = [float(r[0][0]) for line in lines for r in line["resps"]]
    assert found["gguf"] == pytest.approx(found["model"], rel=0.02)


def test_a_prompt_longer_than_the_context_is_told(
    make_chain: Callable[[list[str]], Path], tmp_path: Path
) -> None:
    model = make_chain(["?", "▁ten", "<0x0A>"])
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 256}))
    quant = quantized(model, tmp_path / "q")
    short = score(quant, skills(tmp_path, ["ten"]), tmp_path / "scores" / "short")
    assert short["notes"] == []
    suite = skills(tmp_path, ["ten"])
    (tmp_path / "items.jsonl").write_text(
        json.dumps({"prompt": f"{'what is ' * 200}0?", "answer": "ten"}) + "\n"
    )
    long = score(quant, suite, tmp_path / "scores" / "long")
    assert long["scores"] == {"count": 1.0}
    assert long["notes"] == [
        "count: some prompts are longer than the model's context and lost their beginning"
    ]


def test_kept_answers_are_of_one_version_of_the_runtime(
    gguf_folder: Path, model_folder: Path, tmp_path: Path
) -> None:
    from remerge.evaluate.run import Run

    suite = skills(tmp_path, ["a"])
    assert "xllamacpp" in Run("q", gguf_folder, suite, None).versions
    assert "xllamacpp" not in Run("m", model_folder, suite, None).versions


def test_the_logarithm_of_nothing_can_be_kept(tmp_path: Path) -> None:
    from remerge.evaluate.run import finite

    record = {"samples": [{"resps": [[float("-inf"), True], [-1.5, False]]}]}
    write_json(tmp_path / "record.json", finite(record))
    kept = json.loads((tmp_path / "record.json").read_text())
    assert kept == {"samples": [{"resps": [["-inf", True], [-1.5, False]]}]}


def test_a_folder_with_two_files_or_a_broken_one_is_refused(
    gguf_folder: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "model.gguf").write_bytes(b"GGUF" + bytes(100))
    with pytest.raises((CheckpointError, ToolError), match=r"broken/model\.gguf"):
        score(broken, skills(tmp_path, ["a"]), tmp_path / "scores")
    (broken / "other.gguf").write_bytes(b"GGUF")
    with pytest.raises(CheckpointError, match="which of them is meant"):
        score(broken, skills(tmp_path, ["a"]), tmp_path / "scores")
