"""The benchmark of quantisation runs, at a size at which it says nothing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks import quantize as benchmark
from benchmarks.inputs import Size
from remerge.quantize.core.vocabulary import read_vocabulary


def test_a_table_has_a_row_a_format(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("xllamacpp")
    monkeypatch.setattr("benchmarks.inputs.VOCABULARY", 512)
    monkeypatch.setitem(benchmark.SIZES, "0.25B", Size(256, 768, 1))
    names = ["gguf_f16", "gguf_q4_k_m", "ggml_q5_1"]
    arguments = ["--size", "0.25B", "--work", str(tmp_path), "--repeat", "1", "--threads", "2"]
    benchmark.main([*arguments, "--formats", *names])
    head, rule, *rows = capsys.readouterr().out.splitlines()
    assert head.count("|") == rule.count("|") == 9
    number = r" \d+\.\d\d \|"
    computed = f"{number * 2} \\d+ \\|"
    copied = r"  \|  \| \d+ \|"
    for name, row in zip(names, rows, strict=True):
        end = copied if name == "gguf_f16" else computed
        assert re.fullmatch(rf"\| {name} \|{number * 4}{end}", row), row


def test_the_tokenizer_of_its_model_is_read_as_any_other(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(benchmark.tokenizer(400))
    vocabulary = read_vocabulary(tmp_path, 400)
    assert vocabulary.texts[:4] == ("<unk>", "<s>", "</s>", "piece3")
    assert vocabulary.special == {"unk": 0, "bos": 1, "eos": 2}
