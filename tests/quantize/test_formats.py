"""The table of formats: complete, cheap to import, clear about what it does not know."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from remerge.errors import RecipeError
from remerge.quantize import quantize
from remerge.quantize.formats import FORMATS, choose
from remerge.stages.compose import composed

ROOT = Path(__file__).parents[2]
CONF = ROOT / "conf"


def options() -> set[str]:
    """The formats that conf/quantize has an item for."""
    return {path.stem for path in (CONF / "quantize").glob("g*_*.yaml")}


def chosen(option: str) -> set[str]:
    """The formats that an option of conf/quantize stands for."""
    listed = yaml.safe_load((CONF / "quantize" / f"{option}.yaml").read_text())["defaults"]
    return set().union(*({name} if name in FORMATS else chosen(name) for name in listed))


def test_every_format_has_an_item_and_a_place_in_the_report() -> None:
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    assert options() == set(FORMATS) == set(params["report"]["formats"])


def test_the_options_of_the_pipeline_are_what_their_names_say() -> None:
    assert chosen("exact") == {entry.name for entry in choose(["exact"])}
    assert chosen("all") == {entry.name for entry in choose(["all"])} == set(FORMATS)
    assert {FORMATS[name].class_ for name in chosen("default")} == {"exact", "stable"}


def test_the_document_has_a_row_for_every_format() -> None:
    rows = re.findall(
        r"^\| (g\w+) \| [\d.]+ \| .* \| ([\w-]+) \| (\S+) \|$",
        (ROOT / "docs" / "formats.md").read_text(),
        re.MULTILINE,
    )
    assert set(rows) == {(entry.name, entry.class_, entry.runtime) for entry in FORMATS.values()}


@pytest.mark.parametrize("name", FORMATS)
def test_an_item_is_of_its_own_container(name: str) -> None:
    params = yaml.safe_load(composed([f"quantize=[{name}]", "recipe.score=[]"], CONF))
    (entry,) = params["quantize_eval"].values()
    container = FORMATS[name].container
    assert (entry["section"], entry["own"]) == (f"quantize.{container}", f"quantize/{container}")
    calibrated = container == "gptq"
    assert entry["text"] == params["quantize"]["calibration" if calibrated else "texts"]


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
