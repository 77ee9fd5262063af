"""The stage writes a format and what it lost, from the section that the item names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from remerge.errors import RecipeError
from remerge.stages import quantize as stage
from tests.quantize.items import item, with_settings

EMBEDDED = Path(__file__).parents[2] / "embedded"
MODEL = EMBEDDED / "sources" / "sorting"


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """Ten questions."""
    folder = tmp_path / "texts"
    folder.mkdir()
    lines = (EMBEDDED / "evaluation" / "sorting.jsonl").read_text().splitlines()[:10]
    (folder / "sorting.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def make(name: str, out: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """The manifest of an item whose section holds `settings`."""
    container = name.partition("_")[0]
    stage.make(name, item(container, MODEL, out), with_settings(container, settings))
    manifest: dict[str, Any] = json.loads((out / "manifest.json").read_text())
    return manifest


def test_the_manifest_says_what_the_model_had_and_what_was_lost(
    texts: Path, tmp_path: Path
) -> None:
    settings = {"texts": str(texts), "measure": True, "name": "Tiny", "prompt": "raw"}
    kept = make("gguf_f16", tmp_path / "f16", settings)
    lost = make("gguf_q4_0", tmp_path / "q4_0", settings)
    assert kept["tokens"] == lost["tokens"] > 10
    assert kept["perplexity"] == kept["reference_perplexity"] == lost["reference_perplexity"]
    assert (kept["divergence"], kept["agreement"]) == (0, 1)
    assert lost["divergence"] > 0
    assert lost["perplexity"] != lost["reference_perplexity"]
    assert lost["name"] == "Tiny"


def test_nothing_is_measured_where_the_recipe_says_so(texts: Path, tmp_path: Path) -> None:
    manifest = make("ggml_q8_0", tmp_path / "q", {"texts": str(texts), "measure": False})
    assert "perplexity" not in manifest


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"measure": "maybe"}, "quantize.gguf.measure is 'maybe'"),
        ({"measure": None}, "quantize.gguf.measure is None"),
        ({"texts": ["a"]}, r"quantize.gguf.texts is \['a'\]; expected a text"),
        ({"prompt": "chatml"}, "prompt is 'chatml'"),
    ],
)
def test_a_wrong_setting_is_told_before_anything_is_written(
    texts: Path, tmp_path: Path, change: dict[str, Any], says: str
) -> None:
    settings = {"texts": str(texts), "measure": True, "name": "Tiny", "prompt": "raw"} | change
    with pytest.raises(RecipeError, match=says):
        make("gguf_q8_0", tmp_path / "q", settings)
    assert not (tmp_path / "q").exists()


def test_a_folder_without_questions_is_refused(tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    settings = {"texts": str(tmp_path / "texts"), "measure": True}
    with pytest.raises(RecipeError, match=r"holds no \.jsonl file"):
        make("ggml_q8_0", tmp_path / "q", settings)
