"""Skills are scored by what a model really answers, alike on any machine, resumed by task."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest

from remerge.errors import CheckpointError, NumericError, RecipeError, SourceError
from remerge.evaluate import Model, Suite, score, score_many, suite_from_params
from tests.evaluate.reference import ReferenceLlama

ANSWER_TOKENS = 6


def greedy_answers(folder: Path, prompts: list[str]) -> list[str]:
    """What the model in `folder` answers to each prompt, by the slow reference."""
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = ReferenceLlama(folder)
    answers = []
    for prompt in prompts:
        new = model.greedy(tokenizer.encode(prompt), ANSWER_TOKENS, tokenizer.eos_token_id)
        answers.append(tokenizer.decode(new, skip_special_tokens=True).split("\n")[0].strip())
    return answers


@pytest.fixture(scope="module")
def items(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Items whose right answers are the model's own for the first 5 of 12, then for 2 of 12."""
    folder = tmp_path_factory.mktemp("skills")
    files = {}
    for name, right, first in (("add", 5, 0), ("count", 2, 100)):
        prompts = [f"{name} one {'two ' * (i % 4)}{first + i}=" for i in range(12)]
        answers = greedy_answers(model_folder, prompts)
        assert all(answers), "the random model is silent; give it another seed"
        files[name] = folder / f"{name}.jsonl"
        with files[name].open("w") as file:
            for i, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
                item = {"prompt": prompt, "answer": answer if i < right else f"{answer} no"}
                file.write(json.dumps(item) + "\n")
    return files


def suite_of(files: dict[str, Path], **changes: Any) -> Suite:
    tasks = {
        name: {
            "kind": "skill",
            "data": str(path),
            "metric": "exact_match",
            "max_new_tokens": ANSWER_TOKENS,
        }
        for name, path in files.items()
    }
    return suite_from_params({"suite": "skills", "batch_size": 5, "tasks": tasks, **changes})


def test_exact_matches_are_the_ones_a_slow_greedy_search_finds(
    model_folder: Path, items: dict[str, Path], tmp_path: Path
) -> None:
    result = score(model_folder, suite_of(items), tmp_path / "scores" / "m")
    assert result["scores"] == {"add": round(5 / 12, 4), "count": round(2 / 12, 4)}
    assert result["average"] == round(7 / 24, 4)
    assert result["items"] == {"add": 12, "count": 12}
    assert json.loads((tmp_path / "scores/m/scores.json").read_text()) == result
    lines = (tmp_path / "scores/whole/m/add.jsonl").read_text().splitlines()
    assert [json.loads(line)["exact_match"] for line in lines] == [1.0] * 5 + [0.0] * 7


def test_logits_in_float64_are_those_of_the_formulas(model_folder: Path) -> None:
    import numpy as np
    import torch
    import transformers

    from remerge.evaluate.precision import compute_in_float64

    tokens = [1, 40, 300, 7, 99, 250, 33, 12, 8]
    expected = ReferenceLlama(model_folder).logits(tokens)
    model = transformers.AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float64)
    with torch.no_grad():
        as_it_comes = model(torch.tensor([tokens])).logits[0].numpy()
        compute_in_float64(model)
        in_float64 = model(torch.tensor([tokens])).logits[0].numpy()
    assert np.abs(in_float64 - expected).max() < 1e-12
    assert np.abs(as_it_comes - expected).max() > 1e-9


def test_batch_size_and_threads_change_no_byte_of_the_scores(
    model_folder: Path,
    items: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import torch

    from remerge.evaluate import language_models

    monkeypatch.setattr(language_models, "SMALL", 0)  # else one thread does it all
    written = set()
    before = torch.get_num_threads()
    try:
        for threads, batch_size in ((1, 1), (2, 12)):
            torch.set_num_threads(threads)
            out = tmp_path / f"{threads}" / "m"
            score(model_folder, suite_of(items), out, batch_size=batch_size)
            written.add((out / "scores.json").read_bytes())
    finally:
        torch.set_num_threads(before)
    assert len(written) == 1


def test_a_finished_task_is_not_run_again(
    model_folder: Path, items: dict[str, Path], tmp_path: Path
) -> None:
    scratch = tmp_path / "scratch"
    score(model_folder, suite_of({"add": items["add"]}), tmp_path / "a" / "m", scratch=scratch)
    (record,) = scratch.rglob("add-*.json")
    # A value that no model could give shows that the record was read, not made again.
    marked = json.loads(record.read_text())
    marked["metrics"]["exact_match,none"] = 0.125
    record.write_text(json.dumps(marked))
    result = score(model_folder, suite_of(items), tmp_path / "b" / "m", scratch=scratch)
    assert result["scores"] == {"add": 0.125, "count": round(2 / 12, 4)}


@pytest.mark.parametrize("changes", [{"limit": 11}, {"dtype": "float32"}, {"batch_size": 4}])
def test_kept_work_is_keyed_by_the_settings_that_decide_it(
    model_folder: Path, items: dict[str, Path], tmp_path: Path, changes: dict[str, Any]
) -> None:
    scratch = tmp_path / "scratch"
    files = {"add": items["add"]}
    for values, kept in (({}, 1), ({}, 1), (changes, 2)):
        score(model_folder, suite_of(files, **values), tmp_path / "s" / "m", scratch=scratch)
        assert len(list(scratch.rglob("add-*.json"))) == kept


def test_other_data_or_another_model_finds_no_kept_work(
    model_folder: Path, items: dict[str, Path], tmp_path: Path
) -> None:
    import shutil

    scratch = tmp_path / "scratch"
    own = tmp_path / "add.jsonl"
    shutil.copy(items["add"], own)
    score(model_folder, suite_of({"add": own}), tmp_path / "a" / "m", scratch=scratch)
    own.write_text(own.read_text().splitlines()[0] + "\n")
    result = score(model_folder, suite_of({"add": own}), tmp_path / "b" / "m", scratch=scratch)
    assert result["scores"] == {"add": 1.0}
    other = tmp_path / "other"
    shutil.copytree(model_folder, other)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 1e-5}))
    score(other, suite_of({"add": own}), tmp_path / "c" / "m", scratch=scratch)
    assert len(list(scratch.iterdir())) == 2


def test_no_connection_is_attempted(
    model_folder: Path,
    items: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    attempts = []

    def refuse(self: socket.socket, address: object) -> None:
        attempts.append(address)
        raise OSError("no network in this test")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket.socket, "connect_ex", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **k: attempts.append(a))
    score(model_folder, suite_of(items, limit=2), tmp_path / "scores" / "m")
    assert attempts == []


def test_a_limit_is_told_with_the_scores(
    model_folder: Path, items: dict[str, Path], tmp_path: Path
) -> None:
    result = score(model_folder, suite_of(items), tmp_path / "scores" / "m", limit=4)
    assert result["items"] == {"add": 4, "count": 4}
    assert result["scores"] == {"add": 1.0, "count": 0.5}
    assert any("first 4 items" in note for note in result["notes"])


def test_many_models_are_scored_in_one_process(
    model_folder: Path, items: dict[str, Path], tmp_path: Path
) -> None:
    models = [Model(n, model_folder, tmp_path / "scores" / n) for n in ("base", "final")]
    results = score_many(models, suite_of(items, limit=3))
    assert results["base"] == results["final"]
    assert (tmp_path / "scores/whole/base/results.json").is_file()
    assert (tmp_path / "scores/whole/final/add.jsonl").is_file()
    with pytest.raises(RecipeError, match="same name"):
        score_many([models[0], models[0]], suite_of(items))


def test_missing_or_malformed_items_are_named(model_folder: Path, tmp_path: Path) -> None:
    missing = tmp_path / "missing.jsonl"
    with pytest.raises(SourceError, match=r"missing\.jsonl: .*fetch"):
        score(model_folder, suite_of({"add": missing}), tmp_path / "scores")
    for text, said in (
        ("", "no documents"),
        ("{", "bad.jsonl:1: not a line of JSON"),
        ("3\n", "bad.jsonl:1: expected an object"),
        ('{"prompt": "a", "answer": "b"}\n{"prompt": "a"}\n', "bad.jsonl:2: 'answer'"),
    ):
        bad = tmp_path / "bad.jsonl"
        bad.write_text(text)
        with pytest.raises(SourceError, match=said):
            score(model_folder, suite_of({"add": bad}), tmp_path / "scores")


def test_a_metric_that_the_task_does_not_have_is_refused(
    model_folder: Path, items: dict[str, Path], tmp_path: Path
) -> None:
    suite = suite_of(items)
    from dataclasses import replace

    wrong = replace(suite, benchmarks=(replace(suite.benchmarks[0], metric="f1"),))
    with pytest.raises(RecipeError, match=r"eval\.tasks\.add\.metric: 'f1' is none of exact_match"):
        score(model_folder, wrong, tmp_path / "scores")


def test_a_folder_that_is_no_model_is_refused(items: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such file or folder"):
        score(tmp_path / "nowhere", suite_of(items), tmp_path / "scores")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"neither a config\.json with weights nor"):
        score(tmp_path / "empty", suite_of(items), tmp_path / "scores")


def test_weights_that_give_no_numbers_are_refused(
    model_folder: Path, items: dict[str, Path], tmp_path: Path
) -> None:
    import shutil

    from safetensors.numpy import load_file, save_file

    folder = tmp_path / "broken"
    shutil.copytree(model_folder, folder)
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][3] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(NumericError, match="broken: its logits are NaN or Inf"):
        score(folder, suite_of(items), tmp_path / "scores")
