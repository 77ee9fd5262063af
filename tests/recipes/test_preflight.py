"""What a format cannot hold is told before anything is merged."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from remerge.errors import RecipeError
from remerge.files import sha256_of
from remerge.recipes.methods import GradientSection
from remerge.recipes.preflight import check_formats, check_order_of_source
from remerge.recipes.schema import FormatSettings, Quantize, read_recipe
from remerge.recipes.tables import Item
from remerge.sources.files import open_files
from remerge.sources.pinned import parse_source
from remerge.sources.preflight import Descriptions
from tests.pipeline.project import ROOT, Project
from tests.quantize.conftest import save_llama

FORMATS = ("gguf_f16", "ggml_f16", "gptq_4bit_128g")
RECIPE = """\
# @package _global_
recipe:
  name: smol
  title: Smol
  prompt: raw
  dtype: float16
  base: base
  merges:
    p1: {method: ties, models: {a: , b: }}
    p2: {method: ties, models: {c: , d: }}
    final: {method: gradient, models: [p1, p2]}
  result: final
"""


def byte_level(folder: Path) -> None:
    """Give a model a byte-level BPE tokenizer, as GPT-2's, in place of SentencePiece."""
    (folder / "tokenizer.model").unlink()
    model = {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]}
    pre = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    tokenizer = {"version": "1.0", "added_tokens": [], "pre_tokenizer": pre, "model": model}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    settings = {"tokenizer_class": "GPT2Tokenizer", "eos_token": "a", "bos_token": "a"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


@pytest.fixture(scope="module")
def grouped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Grouped queries and 576 columns, which 128 does not divide; SentencePiece."""
    return save_llama(
        tmp_path_factory.mktemp("grouped") / "model",
        hidden_size=576,
        num_attention_heads=9,
        num_key_value_heads=3,
        num_hidden_layers=1,
    )


def settings_of(measure: bool = False, **changes: Any) -> Quantize:
    own = {"name": "m", "prompt": "raw", "texts": str(ROOT / "embedded/evaluation")}
    own |= {"measure": measure, **changes}
    shared = {"calibration": "x", "texts": "x", "measure": measure}
    gptq = FormatSettings(**own, calibration=str(ROOT / "embedded/calibration.txt"))
    return Quantize(**shared, gguf=FormatSettings(**own), ggml=FormatSettings(**own), gptq=gptq)


def items_of(*names: str) -> dict[str, Item]:
    return {
        name: Item(
            section=f"digests.{name.partition('_')[0]}",  # type: ignore[arg-type]
            reads="merged/final",
            data="x",
            own="x",
            core="x",
            also="x",
            out=f"quantized/{name}",
        )
        for name in names
    }


def test_formats_that_cannot_be_made_are_named_with_reasons(grouped: Path) -> None:
    with pytest.raises(RecipeError) as refused:
        check_formats(items_of(*FORMATS), settings_of(), grouped, "base 'smol'")
    line = str(refused.value)
    assert "ggml_f16: base 'smol': a ggjt file cannot hold 3 key/value heads" in line
    assert "576 columns are no multiple of the group of 128" in line
    assert line.endswith("What can be made: -S 'quantize=[gguf_f16]'")
    assert "\n" not in line and str(grouped) not in line


def test_formats_that_can_be_made_pass(tiny_llama: Path) -> None:
    check_formats(items_of(*FORMATS), settings_of(measure=True), tiny_llama, "base")


def test_measuring_without_its_tokenizer_is_refused_early(tiny_llama: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"holds no \.jsonl file"):
        check_formats(
            items_of("gguf_f16"), settings_of(measure=True, texts=str(tmp_path)), tiny_llama, "base"
        )


@pytest.fixture(scope="module")
def project(grouped: Path, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project whose recipe merges models of this disk, pinned."""
    folder = tmp_path_factory.mktemp("project")
    shutil.copytree(ROOT / "conf", folder / "conf")
    shutil.copy(ROOT / "dvc.yaml", folder)
    models = folder / "donor"
    shutil.copytree(grouped, models)
    byte_level(models)
    (folder / "conf/recipe/smol.yaml").write_text(RECIPE)
    entries = "".join(f"  {n}:\n    kind: model\n    path: donor\n" for n in ("base", *"abcd"))
    (folder / "conf/pins/smol.yaml").write_text(f"sources:\n{entries}")
    shutil.copytree(ROOT / "embedded/evaluation", folder / "embedded/evaluation")
    shutil.copy(ROOT / "embedded/calibration.txt", folder / "embedded")
    made = Project(folder, {"PYTHONPATH": str(ROOT / "src")})
    made.run("remerge", "pin", "smol")
    return made


def test_plan_refuses_formats_of_a_local_base(project: Project) -> None:
    wanted = "quantize=[gguf_f16,gptq_4bit_128g,ggml_f16]"
    out = project.run("remerge", "plan", "smol", wanted, expect=1)
    last = out.strip().splitlines()[-1]
    assert last.startswith("error: ") and "quantize: gguf_f16" in last, out
    assert "base 'base'" in last and "-S quantize=none" in last
    assert "Traceback" not in out
    assert "quantize_eval" not in project.run("remerge", "plan", "smol", "quantize=none")


def test_composition_refuses_what_the_base_cannot_be(project: Project) -> None:
    out = project.run("remerge", "use", "smol", "quantize=[gptq_4bit_128g]", expect=1)
    assert out.startswith("error: ") and out.count("\n") == 1 and "gptq_4bit_128g" in out


def test_gradient_over_tensors_of_unknown_order_is_refused(tmp_path: Path) -> None:
    """Before a weight is downloaded, with the setting that would work."""
    folder = save_llama(tmp_path / "base", num_hidden_layers=1)
    config = json.loads((folder / "config.json").read_text())
    recipe = read_recipe(yaml.safe_load(RECIPE)["recipe"])

    def check(along: str, model_type: str) -> None:
        (folder / "config.json").write_text(json.dumps(config | {"model_type": model_type}))
        files = {
            path.name: {"sha256": sha256_of(path), "size": path.stat().st_size}
            for path in folder.iterdir()
        }
        source = parse_source("base", {"kind": "model", "path": str(folder), "files": files})
        section = GradientSection(
            name="stheno", values=[0.0, 1.0], along=along, blend="all", containing=""
        )
        opened = partial(open_files, root=tmp_path, scratch=tmp_path)
        check_order_of_source(recipe, section, Descriptions(opened), source)

    check("tensors", "llama")
    check("layers", "another")
    says = r"merges.final: the order .* base 'base' is not known \(model_type another\)"
    with pytest.raises(RecipeError, match=says):
        check("tensors", "another")
