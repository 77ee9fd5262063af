"""Rows 120 to 125: vocabularies that do not fit, orders that are not known, quantized donors."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from remerge.cli import main
from tests.faults.made import edit_json, left_behind
from tests.faults.rows import fault
from tests.proof.models import llama, save

ROWS = ("model.embed_tokens.weight", "lm_head.weight")


def model(folder: Path, seed: int, tokens: list[str], **config: object) -> Path:
    """A small Llama with a tokenizer of these tokens, a row each."""
    tensors = llama(seed)
    for name in ROWS:
        dtype, values = tensors[name]
        tensors[name] = (dtype, np.resize(values, (len(tokens), values.shape[1])))
    save(folder, tensors, 10**9)
    vocabulary = {text: number for number, text in enumerate(tokens)}
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocabulary}}))
    edit_json(folder / "config.json", vocab_size=len(tokens), **config)
    return folder


def refused(capsys: pytest.CaptureFixture[str], folder: Path, *words: str) -> str:
    """The line of a verb that is refused; nothing is left behind."""
    out = folder / "out"
    assert main([*words, "--out", str(out)]) == 1
    assert not out.exists()
    assert list(left_behind(folder)) == []
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert len(lines) == 1
    return lines[0]


@fault(
    120,
    "a donor whose tokenizer has another token at a row of the base's",
    sees="`error: DONOR: token 'b' is number 2 there and 1 in BASE (2 tokens differ); … set "
    "vocabulary: map …`",
    then="the same, until a rule is chosen",
)
def test_donor_with_other_tokens_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = model(tmp_path / "base", 0, ["a", "b", "c", "d"])
    donor = model(tmp_path / "donor", 1, ["a", "c", "b", "d"])
    line = refused(capsys, tmp_path, "ties", str(base), str(donor))
    assert "donor: token 'b' is number 2 there and 1 in base (2 tokens differ)" in line
    assert "--vocabulary map" in line


@fault(
    121,
    "a donor with more rows than the base, or with fewer",
    sees="`error: DONOR: tensor NAME has 1 rows more than BASE's; … vocabulary: truncate …`, `has "
    "shape …; to give it the base's rows …, vocabulary: map`",
    then="the same, until a rule is chosen",
)
def test_donor_with_other_rows_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = model(tmp_path / "base", 0, ["a", "b", "c", "d"])
    more = model(tmp_path / "more", 1, ["a", "b", "c", "d", "e"])
    fewer = model(tmp_path / "fewer", 2, ["a", "b", "c"])
    line = refused(capsys, tmp_path, "ties", str(base), str(more))
    assert "has 1 rows more than base's" in line and "--vocabulary truncate" in line
    line = refused(capsys, tmp_path, "ties", str(base), str(fewer))
    assert "--vocabulary map" in line


@fault(
    122,
    "one vocabulary is asked for with a rule of a model that is not merged, or with one for rows",
    sees="`error: …` that names the model, or `--tokenizer, --token and --pad-to-multiple-of give "
    "all models one vocabulary; leave --vocabulary out`",
    then="the same, until the options agree",
)
def test_rules_for_tokens_that_contradict_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = model(tmp_path / "base", 0, ["a", "b", "c", "d"])
    donor = model(tmp_path / "donor", 1, ["a", "b", "c", "e"])
    verb = ("ties", str(base), str(donor), "--tokenizer", "union")
    assert "nobody" in refused(capsys, tmp_path, *verb, "--token", "a=nobody")
    line = refused(capsys, tmp_path, *verb, "--vocabulary", "truncate")
    assert "leave --vocabulary out" in line


@fault(
    123,
    "a gradient over the tensors of an architecture whose order is not known",
    sees="`error: MODEL (FOLDER): the order of its tensors is not known (model_type NAME), so they "
    "cannot be counted: use --along layers …`; `plan` and the first `fetch` say it in a pipeline",
    then="the same; `along: layers` works",
)
def test_gradient_over_unknown_order_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = (model(tmp_path / n, i, ["a", "b"], model_type="other") for i, n in enumerate("ab"))
    verb = ("gradient", str(one), str(two), "0", "1")
    line = refused(capsys, tmp_path, *verb)
    assert "the order of its tensors is not known (model_type other)" in line
    assert main([*verb, "--along", "layers", "--out", str(tmp_path / "out")]) == 0


@fault(
    124,
    "a donor that is quantized, also one whose packed bytes pose as bfloat16 (bitsandbytes)",
    sees="`error: DONOR: its weights are quantized (fp8); give --dequantize …`, `set dequantize: "
    "true …` in a pipeline, before anything is downloaded",
    then="the same, until it is dequantized",
)
def test_quantized_donor_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base, donor = (model(tmp_path / n, i, ["a", "b"]) for i, n in enumerate(("base", "donor")))
    tensors = llama(1)
    name = next(n for n in tensors if n.endswith("q_proj.weight"))
    dtype, values = tensors[name]
    state = f"{name}.quant_state.bitsandbytes__nf4"
    tensors |= {name: (dtype, values.reshape(-1, 1)), state: ("U8", np.zeros(8, np.uint8))}
    shutil.rmtree(donor)
    save(donor, tensors, 10**9)
    edit_json(donor / "config.json", quantization_config={"quant_method": "bitsandbytes"})
    line = refused(capsys, tmp_path, "ties", str(base), str(donor))
    assert "its weights are quantized (bitsandbytes); give --dequantize" in line


@fault(
    125,
    "a quantized source without a scale, with a scale of another shape, NaN, or an unknown form",
    sees="`error: source NAME: tensor NAME is F8_E4M3 and has no scale …`, `has shape …; expected "
    "…`, `quantized with gptq, which cannot be dequantized here; …`",
    then="the same, until the source is another",
)
def test_damaged_quantized_source_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    donor = model(tmp_path / "donor", 1, ["a", "b"], dtype="float16")
    tensors = llama(1)
    name = next(n for n in tensors if n.endswith("q_proj.weight"))
    tensors[name] = ("F8_E4M3", np.zeros(tensors[name][1].shape, np.uint8))
    shutil.rmtree(donor)
    save(donor, tensors, 10**9)
    edit_json(donor / "config.json", dtype="float16", quantization_config={"quant_method": "fp8"})
    line = refused(capsys, tmp_path, "dequantize", str(donor))
    assert "is F8_E4M3 and has no scale" in line
    edit_json(donor / "config.json", quantization_config={"quant_method": "gptq"})
    line = refused(capsys, tmp_path, "dequantize", str(donor))
    assert "quantized with gptq, which cannot be dequantized here" in line
