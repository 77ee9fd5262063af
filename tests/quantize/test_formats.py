"""The table of formats: complete, cheap to import, clear about what it does not know."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from remerge.errors import RecipeError
from remerge.quantize import quantize
from remerge.quantize.bits import bits_per_weight
from remerge.quantize.formats import FORMATS, choose
from remerge.stages.compose import composed

ROOT = Path(__file__).parents[2]
CONF = ROOT / "conf"


def script() -> ModuleType:
    """`docs/formats.py`, which is no module of the package."""
    spec = importlib.util.spec_from_file_location("docs_formats", ROOT / "docs" / "formats.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_names_formats_is_what_the_rows_say() -> None:
    made = script()
    files = made.written(ROOT)
    assert {f for f, text in files.items() if (ROOT / f).read_text() != text} == set()
    assert made.strays(ROOT, files) == []


def chosen(option: str) -> set[str]:
    """The formats that an option of conf/quantize makes."""
    return set(yaml.safe_load(composed([f"quantize={option}"], CONF))["recipe"]["formats"])


def test_sets_of_formats_are_what_their_names_say() -> None:
    assert chosen("exact") == {entry.name for entry in choose(["exact"])}
    assert chosen("all") == {entry.name for entry in choose(["all"])} == set(FORMATS)
    assert {FORMATS[name].class_ for name in chosen("default")} == {"exact", "stable"}


def test_a_new_row_reaches_everything_that_names_formats(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    row = replace(FORMATS["gguf_q4_0"], name="gguf_new", default=True)
    monkeypatch.setitem(FORMATS, row.name, row)
    files = script().written(ROOT)
    assert "gguf_new: {score: true}" in files["conf/eval/quants/gguf_new.yaml"]
    assert "recipe: {formats: {gguf_new: }}" in files["conf/quantize/gguf_new.yaml"]
    assert all("    gguf_new:\n" in files[f"conf/quantize/{s}.yaml"] for s in ("all", "default"))
    assert "| gguf_new | 4.53 | blocks of 32: the fastest" in files["docs/formats.md"]


# Sizes of the files that were published of Llama 2 13B, in gigabytes.
@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("gguf_q4_0", 7.37),
        ("gguf_q4_k_m", 7.87),
        ("gguf_q5_0", 8.97),
        ("gguf_q5_k_m", 9.23),
        ("gguf_q6_k", 10.68),
        ("gguf_q8_0", 13.83),
    ],
)
def test_bits_give_the_sizes_of_published_files(name: str, size: float) -> None:
    weights = 13_015_864_320
    assert bits_per_weight(FORMATS[name]) * weights / 8e9 == pytest.approx(size, rel=2e-3)


@pytest.mark.parametrize("name", FORMATS)
def test_an_item_is_of_its_own_container(name: str) -> None:
    params = yaml.safe_load(composed([f"quantize=[{name}]", "recipe.score=[]"], CONF))
    (entry,) = params["quantize_eval"].values()
    container = FORMATS[name].container
    assert entry["section"] == f"digests.{container}"
    assert entry["own"] == f"src/remerge/quantize/{container}"
    assert entry["data"] == params["quantize"]["texts"]
    if container == "gptq":
        assert entry["also"] == params["quantize"]["calibration"]


@pytest.mark.parametrize("name", ["gguf_q3", "GGUF_F16", "gguf", "q4_0"])
def test_an_unknown_format_is_named_with_the_known_ones(name: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=rf"'{name}' is not a format; .*gguf"):
        choose([name])
    with pytest.raises(RecipeError, match=rf"'{name}' is not a format; .*gguf"):
        quantize(tmp_path, tmp_path / "out", name)


@pytest.mark.parametrize("names", [["gguf_f16", "gguf_f16"], ["exact", "ggml_q8_0"]])
def test_a_format_named_twice_is_an_error(names: list[str]) -> None:
    with pytest.raises(RecipeError, match="named twice"):
        choose(names)


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("formats", "numpy"),
        ("gguf.write", "torch"),
        ("ggml.write", "torch"),
        ("gptq.write", "torch"),
    ],
)
def test_modules_import_no_more_than_they_need(module: str, heavy: str) -> None:
    code = f"import sys, remerge.quantize.{module}; print({heavy!r} in sys.modules)"
    command = [
        sys.executable,
        "-c",
        f"import sys; sys.path.insert(0, {str(ROOT / 'src')!r}); {code}",
    ]
    assert subprocess.run(command, capture_output=True, text=True).stdout == "False\n"
