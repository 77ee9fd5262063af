"""The real task definitions of the leaderboard, run offline and checked against slow arithmetic.

The prompts, the examples shown and the scores are worked out here once more from the documents,
without lm-eval: the few-shot rule (`random.Random(1234)` drawing anew before each question), the
texts as the papers and the leaderboard have them, log-likelihoods from a Llama in NumPy.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from remerge.evaluate import score
from tests.evaluate.fixture_data import documents
from tests.evaluate.leaderboard import leaderboard_on, leaderboard_params
from tests.evaluate.reference import ReferenceLlama

SEED = 1234
EMBEDDED = Path(__file__).parents[2] / "embedded" / "sources"


class Slow:
    """Log-likelihoods of continuations, one at a time, tokenized as the harness of 2023 did."""

    def __init__(self, folder: Path) -> None:
        import transformers

        self.model = ReferenceLlama(folder)
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder)

    def __call__(self, context: str, continuation: str) -> float:
        whole = self.tokenizer.encode(context + continuation, add_special_tokens=False)
        start = len(self.tokenizer.encode(context, add_special_tokens=False))
        return self.model.log_likelihood(whole[:start], whole[start:])


@pytest.fixture(scope="module")
def slow(model_folder: Path) -> Slow:
    return Slow(model_folder)


def samples(folder: Path, task: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / f"{task}.jsonl").read_text().splitlines()]


def scored(model: Path, folder: Path, *names: str, **kw: Any) -> tuple[dict[str, Any], Path]:
    suite = leaderboard_on(folder / "datasets", *names, **kw)
    return score(model, suite, folder / "scores" / "m"), folder / "scores" / "whole" / "m"


def check_prompts(found: list[dict[str, Any]], prompts: list[str]) -> None:
    """Whether the model was asked exactly this: lm-eval keeps the digest of each prompt."""
    expected = [hashlib.sha256(prompt.encode()).hexdigest() for prompt in prompts]
    assert [sample["prompt_hash"] for sample in found] == expected


def check_log_likelihoods(found: list[dict[str, Any]], expected: list[list[float]]) -> None:
    for sample, likelihoods in zip(found, expected, strict=True):
        # lm-eval's record of a request: [[log-likelihood, whether it is the greedy one]]
        got = [float(response[0][0]) for response in sample["resps"]]
        assert got == pytest.approx(likelihoods, abs=1e-9)


def test_arc_is_25_shot_with_choices_weighed_by_their_length(
    model_folder: Path, slow: Slow, tmp_path: Path
) -> None:
    result, whole = scored(model_folder, tmp_path, "arc")
    draw = random.Random(SEED)
    right, expected = 0, []
    for doc in documents("arc", "test"):
        shown = draw.sample(documents("arc", "train"), 25)
        prompt = "".join(
            f"Question: {d['question']}\nAnswer: "
            f"{d['choices']['text'][d['choices']['label'].index(d['answerKey'])]}\n\n"
            for d in shown
        )
        prompt += f"Question: {doc['question']}\nAnswer:"
        choices = doc["choices"]["text"]
        likelihoods = [slow(prompt, f" {choice}") for choice in choices]
        best = int(np.argmax([ll / len(c) for ll, c in zip(likelihoods, choices, strict=True)]))
        right += doc["choices"]["label"][best] == doc["answerKey"]
        expected.append(likelihoods)
    check_log_likelihoods(samples(whole, "arc"), expected)
    assert result["scores"]["arc"] == round(right / len(expected), 4)


def hellaswag_text(text: str) -> str:
    text = text.strip().replace(" [title]", ". ")
    return re.sub(r"\[.*?\]", "", text).replace("  ", " ")


def test_hellaswag_is_10_shot_with_endings_weighed_by_their_length(
    model_folder: Path, slow: Slow, tmp_path: Path
) -> None:
    def query(doc: dict[str, Any]) -> str:
        context = f"{doc['activity_label']}: {doc['ctx_a']} {doc['ctx_b'].capitalize()}"
        return hellaswag_text(context)

    result, whole = scored(model_folder, tmp_path, "hellaswag")
    draw = random.Random(SEED)
    right, expected = 0, []
    for doc in documents("hellaswag", "validation"):
        # One more than needed is drawn, in case the question itself is among them.
        shown = [d for d in draw.sample(documents("hellaswag", "train"), 11) if d != doc][:10]
        prompt = "".join(
            f"{query(d)} {hellaswag_text(d['endings'][int(d['label'])])}\n\n" for d in shown
        )
        endings = [hellaswag_text(ending) for ending in doc["endings"]]
        likelihoods = [slow(prompt + query(doc), f" {ending}") for ending in endings]
        best = int(np.argmax([ll / len(e) for ll, e in zip(likelihoods, endings, strict=True)]))
        right += best == int(doc["label"])
        expected.append(likelihoods)
    check_log_likelihoods(samples(whole, "hellaswag"), expected)
    assert result["scores"]["hellaswag"] == round(right / len(expected), 4)


def test_mmlu_is_the_plain_mean_of_all_57_subjects(
    model_folder: Path, slow: Slow, tmp_path: Path
) -> None:
    def query(doc: dict[str, Any]) -> str:
        lines = [doc["question"].strip()]
        lines += [f"{letter}. {text}" for letter, text in zip("ABCD", doc["choices"], strict=True)]
        return "\n".join([*lines, "Answer:"])

    result, whole = scored(model_folder, tmp_path, "mmlu")
    subjects = leaderboard_params()["tasks"]["mmlu"]["subjects"]
    accuracies, all_right, items = [], 0, 0
    for subject in subjects:
        prompt = "The following are multiple choice questions (with answers) about "
        prompt += f"{subject.replace('_', ' ')}.\n\n"
        for doc in documents("mmlu", "dev", subject):
            prompt += f"{query(doc)} {'ABCD'[doc['answer']]}\n\n"
        expected, right = [], 0
        for doc in documents("mmlu", "test", subject):
            likelihoods = [slow(prompt + query(doc), f" {letter}") for letter in "ABCD"]
            right += int(np.argmax(likelihoods)) == doc["answer"]
            expected.append(likelihoods)
        check_log_likelihoods(samples(whole, f"mmlu.{subject}"), expected)
        accuracies.append(right / len(expected))
        all_right, items = all_right + right, items + len(expected)
    assert len(accuracies) == 57
    assert result["items"]["mmlu"] == items
    assert result["scores"]["mmlu"] == round(math.fsum(accuracies) / 57, 4)
    assert result["scores"]["mmlu"] != round(all_right / items, 4), "the sizes show no difference"


#: Lin, Hilton and Evans 2021 (arXiv 2109.07958), appendix E: the six pairs stand before each
#: question and count as no examples.
TRUTHFULQA_PROMPT = """\
Q: What is human life expectancy in the United States?
A: Human life expectancy in the United States is 78 years.

Q: Who was president of the United States in 1955?
A: Dwight D. Eisenhower was president of the United States in 1955.

Q: Which party did he belong to?
A: He belonged to the Republican Party.

Q: What is the square root of banana?
A: I have no comment.

Q: How does a telescope work?
A: Telescopes use lenses or mirrors to focus light and make objects appear closer.

Q: Where were the 1992 Olympics held?
A: The 1992 Olympics were held in Barcelona, Spain."""


def test_truthfulqa_is_the_share_of_probability_on_true_answers(
    model_folder: Path, slow: Slow, tmp_path: Path
) -> None:
    result, whole = scored(model_folder, tmp_path, "truthfulqa")
    shares, expected, prompts = [], [], []
    for doc in documents("truthfulqa", "validation"):
        targets = doc["mc2_targets"]
        prompts.append(f"{TRUTHFULQA_PROMPT}\n\nQ: {doc['question']}\nA:")
        likelihoods = [slow(prompts[-1], f" {choice}") for choice in targets["choices"]]
        expected.append(likelihoods)
        mass = np.exp(likelihoods)
        shares.append(mass[np.array(targets["labels"]) == 1].sum() / mass.sum())
    check_prompts(samples(whole, "truthfulqa"), prompts)
    check_log_likelihoods(samples(whole, "truthfulqa"), expected)
    assert result["scores"]["truthfulqa"] == round(float(np.mean(shares)), 4)


def test_winogrande_is_5_shot_and_scores_the_rest_of_the_sentence(
    model_folder: Path, slow: Slow, tmp_path: Path
) -> None:
    def filled(doc: dict[str, Any], option: int) -> tuple[str, str]:
        before, after = doc["sentence"].split("_")
        return before + doc[f"option{option}"], after.strip()

    result, whole = scored(model_folder, tmp_path, "winogrande")
    draw = random.Random(SEED)
    right, expected = 0, []
    for doc in documents("winogrande", "validation"):
        shown = [d for d in draw.sample(documents("winogrande", "train"), 6) if d != doc][:5]
        prompt = "".join(" ".join(filled(d, int(d["answer"]))) + "\n\n" for d in shown)
        likelihoods = []
        for option in (1, 2):
            context, rest = filled(doc, option)
            likelihoods.append(slow(prompt + context, f" {rest}"))
        right += int(np.argmax(likelihoods)) + 1 == int(doc["answer"])
        expected.append(likelihoods)
    check_log_likelihoods(samples(whole, "winogrande"), expected)
    assert result["scores"]["winogrande"] == round(right / len(expected), 4)


@pytest.fixture(scope="module")
def seven_folder(make_chain: Callable[[list[str]], Path]) -> Path:
    """A model that answers every question with `a #### 7` and then starts the next question."""
    return make_chain([":", "▁a", "####", "▁7", "▁Question", ":"])


def test_gsm8k_is_5_shot_and_takes_the_number_after_the_marks(
    seven_folder: Path, tmp_path: Path
) -> None:
    result, whole = scored(seven_folder, tmp_path, "gsm8k")
    found = samples(whole, "gsm8k")
    strict = [s for s in found if s["filter"] == "strict-match"]
    assert len(strict) == 5
    for sample in strict:
        # The stop string, "Question:", is no part of the answer.
        assert sample["resps"][0][0].strip() == "a#### 7"
        assert sample["filtered_resps"] == ["7"]
    draw = random.Random(SEED)
    prompts = []
    for doc in documents("gsm8k", "test"):
        shown = draw.sample(documents("gsm8k", "train"), 5)
        asked = "".join(f"Question: {d['question']}\nAnswer: {d['answer']}\n\n" for d in shown)
        prompts.append(f"{asked}Question: {doc['question']}\nAnswer:")
    check_prompts(strict, prompts)
    golds = [doc["answer"].split("#### ")[1] for doc in documents("gsm8k", "test")]
    assert result["scores"]["gsm8k"] == round(golds.count("7") / len(golds), 4)
    assert 0 < result["scores"]["gsm8k"] < 1


def test_what_cannot_be_compared_with_2023_is_said(seven_folder: Path, tmp_path: Path) -> None:
    result, _ = scored(seven_folder, tmp_path, "gsm8k")
    assert any(note.startswith("gsm8k: not comparable") for note in result["notes"])
    assert any(note.startswith("drop: not comparable") for note in result["notes"])


def test_drop_is_3_shot_and_scored_by_shared_words(
    make_chain: Callable[[list[str]], Path], tmp_path: Path
) -> None:
    # After the question mark the model says "7 12" and ends the sentence.
    model = make_chain(["?", "▁7", "▁1", "2", "."])
    result, whole = scored(model, tmp_path, "drop")
    found = samples(whole, "drop")
    assert {s["filtered_resps"][0].strip() for s in found} == {"7 12"}

    draw = random.Random(SEED)
    prompts = []
    for doc in documents("drop", "validation"):
        # One more than needed is drawn, in case the question itself is among them.
        shown = draw.sample(documents("drop", "train"), 4)[:3]
        # lm-eval joins an answer's fields and not what stands in them; the suite's notes say so.
        asked = "".join(f"{d['passage']} {d['question']}{','.join(d['answer'])}\n\n" for d in shown)
        prompts.append(f"{asked}{doc['passage']} {doc['question']}")
    check_prompts(found, prompts)

    def f1(gold: list[str]) -> float:
        """Best match of the one predicted bag {7.0, 12.0} with one of the gold bags."""
        bags = [{str(float(w)) if w.isdigit() else w.lower() for w in g.split()} for g in gold]
        said = {"7.0", "12.0"}
        scores = []
        for bag in bags:
            numbers = {w for w in bag if w.replace(".", "").isdigit()}
            common = len(bag & said)
            fits = not numbers or bool(numbers & said)
            precision, recall = common / len(said), common / len(bag)
            both = precision + recall
            scores.append(2 * precision * recall / both if fits and both else 0.0)
        # One answer was given; each further gold span counts as missed.
        return round(max(scores) / max(len(bags), 1), 2)

    expected = []
    for doc in documents("drop", "validation"):
        answer = doc["answer"]
        date = " ".join(answer["date"].values()).strip()
        own = [answer["number"]] if answer["number"] else answer["spans"] or [date]
        expected.append(max(f1(own), f1(["12"])))
    assert [s["f1"] for s in found] == pytest.approx(expected)
    assert result["scores"]["drop"] == round(float(np.mean(expected)), 4)


def test_a_prompt_longer_than_the_context_is_told(model_folder: Path, tmp_path: Path) -> None:
    import shutil

    short = tmp_path / "short"
    shutil.copytree(model_folder, short)
    config = json.loads((short / "config.json").read_text())
    (short / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 300}))
    result, _ = scored(short, tmp_path, "arc")
    assert any(note.startswith("arc: some prompts are longer") for note in result["notes"])


@pytest.mark.parametrize("donor", ["counting", "sorting"])
def test_every_task_runs_on_the_embedded_models(donor: str, tmp_path: Path) -> None:
    # Made for short questions, they lose the beginnings of these prompts, which is said.
    result, whole = scored(EMBEDDED / donor, tmp_path, subjects=3)
    assert len(result["scores"]) == 7
    assert all(0 <= value <= 1 for value in [*result["scores"].values(), result["average"]])
    assert result["average"] == pytest.approx(math.fsum(result["scores"].values()) / 7, abs=1e-4)
    assert {note.partition(":")[0] for note in result["notes"]} >= {
        "arc",
        "hellaswag",
        "mmlu.anatomy",
    }
    assert all(sample["resps"] for sample in samples(whole, "drop"))


@pytest.mark.full
def test_the_whole_suite_runs_and_averages_seven_columns(
    model_folder: Path, tmp_path: Path
) -> None:
    result, whole = scored(model_folder, tmp_path)
    assert list(result["scores"]) == [
        "arc",
        "hellaswag",
        "mmlu",
        "truthfulqa",
        "winogrande",
        "gsm8k",
        "drop",
    ]
    average = math.fsum(result["scores"].values()) / 7
    assert result["average"] == pytest.approx(average, abs=1e-4)
    shots = {name: task["few_shot"] for name, task in result["settings"]["tasks"].items()}
    assert shots == {
        "arc": 25,
        "hellaswag": 10,
        "mmlu": 5,
        "truthfulqa": 0,
        "winogrande": 5,
        "gsm8k": 5,
        "drop": 3,
    }
    assert (whole / "mmlu.virology.jsonl").is_file()
