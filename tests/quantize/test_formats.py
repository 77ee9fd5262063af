"""The table of formats: complete, cheap to import, clear about what it does not know."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from remerge.errors import RecipeError
from remerge.quantize.formats import FORMATS, choose, of_container


def test_default_holds_only_what_is_the_same_on_every_machine() -> None:
    assert {entry.class_ for entry in choose("default")} <= {"exact", "stable"}
    assert [entry.name for entry in choose("all")] == list(FORMATS)


@pytest.mark.parametrize("names", ["gguf_q3", ["gguf_f16", "GGUF_F16"]])
def test_an_unknown_format_is_named_with_the_known_ones(names: str | list[str]) -> None:
    with pytest.raises(
        RecipeError, match=r"is not a format; choose default, all, or from gguf_f16"
    ):
        choose(names)


def test_a_format_named_twice_is_an_error() -> None:
    with pytest.raises(RecipeError, match="named twice"):
        choose(["gguf_f16", "gguf_f16"])


def test_a_format_of_another_container_is_an_error() -> None:
    with pytest.raises(RecipeError, match="ggml_f16 is a ggml format, not gguf"):
        of_container("ggml_f16", "gguf")


@pytest.mark.parametrize(
    ("module", "heavy"),
    [("formats", "numpy"), ("gguf", "torch"), ("ggml", "torch"), ("gptq", "torch")],
)
def test_modules_import_no_more_than_they_need(module: str, heavy: str) -> None:
    code = f"import sys, remerge.quantize.{module}; print({heavy!r} in sys.modules)"
    source = Path(__file__).parents[2] / "src"
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(source)!r}); {code}"]
    assert subprocess.run(command, capture_output=True, text=True).stdout == "False\n"
