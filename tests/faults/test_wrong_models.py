"""Rows 32 to 36: models that are sound files and still do not belong together."""

from __future__ import annotations

import json
import re
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from remerge.adapters.peft_files import read_adapter
from remerge.baking.bake import plan_bake
from remerge.errors import CheckpointError, NumericError
from remerge.merge.donors import open_donor
from remerge.methods.gradient import Gradient, plan_gradient
from remerge.shards.artefact import build
from remerge.sources.files import open_files
from remerge.sources.pinned import parse_sources
from remerge.sources.preflight import Descriptions, check_source
from remerge.tensors.checkpoint import open_checkpoint, read_f32
from tests.faults.made import edit_json, family, left_behind, merge, model
from tests.faults.rows import fault
from tests.proof.models import HIDDEN, ROWS, llama, save
from tests.sources.conftest import HURRY
from tests.sources.hub_server import HubServer, sha256_of, size_of

NORM = "model.layers.1.input_layernorm.weight"


@fault(
    32,
    "NaN or Inf in any tensor of any input",
    sees="`error: MODEL: tensor NAME holds nan at index [5] (FILE); the source is damaged: fetch "
    "it again or drop it`",
    then="makes the model anew once the source is sound, since other inputs are another merge, and "
    "clears away what the failed attempt had left",
)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_none_is_named_by_model_tensor_and_index(
    tmp_path: Path, value: float
) -> None:
    base, donors = family(tmp_path)
    bad = np.ones(HIDDEN, "<f2")
    bad[5] = value
    broken = model(tmp_path / "broken", 1, model__layers__1__input_layernorm__weight=bad)
    where = rf"broken: tensor '{NORM}' holds -?(nan|inf) at index \[5\]"
    with pytest.raises(NumericError, match=where):
        merge(base, [*donors, broken], tmp_path / "out")
    with pytest.raises(NumericError, match=where):
        merge(broken, donors, tmp_path / "out")
    plan = plan_gradient(
        open_checkpoint(base),
        open_checkpoint(broken),
        Gradient((0.2, 0.8)),
        dtype="F16",
        shard_bytes=10**9,
    )
    with pytest.raises(NumericError, match=where):
        build(plan, tmp_path / "out", companions={}, scratch=tmp_path / "scratch", threads=2)
    assert not (tmp_path / "out").exists() and not list(left_behind(tmp_path))


def adapter(folder: Path, a: np.ndarray, b: np.ndarray) -> Path:
    """A saved adapter for one module of the small model."""
    module = "base_model.model.model.layers.0.self_attn.q_proj"
    tensors = {f"{module}.lora_A.weight": ("F16", a), f"{module}.lora_B.weight": ("F16", b)}
    save(folder, tensors)
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 2, "lora_alpha": 4}')
    return folder


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_none_is_named_when_an_adapter_is_baked(
    tmp_path: Path, value: float
) -> None:
    a, b = np.ones((2, HIDDEN), "<f2"), np.ones((HIDDEN, 2), "<f2")
    square = np.ones((HIDDEN, HIDDEN), "<f2")
    bad_a, bad_b, bad_square = a.copy(), b.copy(), square.copy()
    bad_a[1, 1] = bad_b[1, 1] = bad_square[3, 4] = value
    weight = "model__layers__1__self_attn__o_proj__weight"
    base, broken = (
        model(tmp_path / "base", 0),
        model(tmp_path / "broken", 0, **{weight: bad_square}),
    )
    for donor, lora, says in (
        (base, adapter(tmp_path / "in A", bad_a, b), r"in A: .*lora_A\.weight.* at index \[1, 1\]"),
        (base, adapter(tmp_path / "in B", a, bad_b), r"in B: .*lora_B\.weight.* at index \[1, 1\]"),
        (broken, adapter(tmp_path / "sound", a, b), r"broken: .*o_proj.* at index \[3, 4\]"),
    ):
        plan = plan_bake(open_checkpoint(donor), read_adapter(lora), dtype="F16", shard_bytes=10**9)
        with pytest.raises(NumericError, match=says):
            build(plan, tmp_path / "out", companions={}, scratch=tmp_path / "scratch", threads=2)
    assert not (tmp_path / "out").exists() and not list(left_behind(tmp_path))


def test_a_repaired_source_leaves_no_work_of_the_failed_attempt_behind(tmp_path: Path) -> None:
    base, donors = family(tmp_path)
    bad = np.ones(HIDDEN, "<f2")
    bad[5] = np.nan
    last = model(tmp_path / "last", 7, model__norm__weight=bad)
    with pytest.raises(NumericError):
        merge(base, [*donors, last], tmp_path / "out")
    (failed,) = (tmp_path / "scratch").iterdir()
    (tmp_path / "scratch" / "orders").mkdir()  # of something else
    merge(base, donors, tmp_path / "another")
    assert failed.exists(), "another model's build clears away nothing of this one"
    shutil.rmtree(last)
    model(tmp_path / "last", 7)
    merge(base, [*donors, last], tmp_path / "out")
    assert [path.name for path in (tmp_path / "scratch").iterdir()] == ["orders"]


@fault(
    33,
    "a donor with another shape, a missing tensor, one too many, an integer type",
    sees="`error: DONOR: tensor NAME has shape [40, 33], BASE has [40, 32]`, `lacks tensor`, `has "
    "beyond the base's tensor`, `is I64; … quantized checkpoint? …`",
    then="the same, until the recipe is corrected",
)
def test_a_donor_of_another_form_is_refused_by_tensor_name(tmp_path: Path) -> None:
    base, _ = family(tmp_path)
    sound = llama(1)

    def refuse(change: dict[str, Any], says: str, drop: str = "") -> None:
        tensors = {n: t for n, t in (sound | change).items() if n != drop}
        folder = tmp_path / f"donor of {says[:12]}"
        with pytest.raises(CheckpointError, match=says):
            merge(base, [save(folder, tensors)], tmp_path / "out")
        assert not (tmp_path / "out").exists()

    refuse({NORM: ("F16", np.ones(HIDDEN + 1, "<f2"))}, "has shape")
    refuse({}, "lacks tensor", drop=NORM)
    refuse({"extra.weight": ("F16", np.ones(1, "<f2"))}, "beyond the base")
    refuse({NORM: ("I64", np.ones(HIDDEN, "<i8"))}, "is I64")
    rows = ("F16", np.ones((ROWS + 1, HIDDEN), "<f2"))
    refuse({"lm_head.weight": rows}, "1 rows more.*truncate")


@fault(
    34,
    "donors that are the base itself, so that all task vectors are zero; one donor only",
    sees="nothing: a merge of nothing is the base, bit for bit",
    then="runs nothing",
)
def test_donors_that_are_the_base_give_the_base_and_one_donor_is_enough(tmp_path: Path) -> None:
    base, donors = family(tmp_path, 1)
    twins = [model(tmp_path / f"twin{i}", 0) for i in range(2)]
    for folders in (twins, twins[:1]):
        manifest = merge(base, folders, tmp_path / f"of{len(folders)}")
        merged = open_checkpoint(tmp_path / f"of{len(folders)}")
        for name, info in open_checkpoint(base).tensors.items():
            assert np.array_equal(read_f32(merged.tensors[name]), read_f32(info))
        assert json.dumps(manifest, allow_nan=False)
    merge(base, donors, tmp_path / "whole", density=1.0)
    whole, donor = open_checkpoint(tmp_path / "whole"), open_checkpoint(donors[0])
    for name, info in donor.tensors.items():
        given = read_f32(info)
        assert np.allclose(read_f32(whole.tensors[name]), given, rtol=0, atol=1e-3)


@fault(
    35,
    "tokenizers that disagree: more rows than the base's, or tokens of other numbers",
    sees="`error: DONOR: tensor NAME has 1 rows more than BASE's; set vocabulary: truncate …`, "
    "`DONOR: token 'a' is number 1 there and 0 in BASE (2 tokens differ); … set vocabulary: map`, "
    "before weights are fetched and again before they are merged; a merge takes the base's "
    "tokenizer, byte for byte",
    then="the same, until the recipe says what to do",
)
def test_a_larger_vocabulary_needs_a_rule_and_the_base_gives_the_tokenizer(tmp_path: Path) -> None:
    base, donors = family(tmp_path)
    for folder in (base, *donors):
        (folder / "tokenizer.json").write_text('{"model": {"vocab": {"a": 0, "b": 1}}}')
    merge(base, donors, tmp_path / "out")
    assert (tmp_path / "out/tokenizer.json").read_bytes() == (base / "tokenizer.json").read_bytes()
    (donors[0] / "tokenizer.json").write_text('{"model": {"vocab": {"b": 0, "a": 1}}}')
    with pytest.raises(CheckpointError, match=r"number 1 there and 0 in base \(2 tokens differ\)"):
        open_donor(donors[0], open_checkpoint(base), density=0.5, mapped=tmp_path / "mapped")
    rows = np.ones((ROWS + 1, HIDDEN), "<f2")
    larger = model(tmp_path / "larger", 3, lm_head__weight=rows)
    with pytest.raises(CheckpointError, match="vocabulary: truncate"):
        merge(base, [larger], tmp_path / "refused")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    with HubServer() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub-cache"))
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield server


@fault(
    36,
    "a donor whose headers and config already say that it does not fit",
    sees="the same line as the merge would give, after kilobytes: `error: DONOR …: number of "
    "layers is 9, the base's is 2; it is not a fine-tune of this base`",
    then="the same; no weight was downloaded",
)
def test_what_headers_and_configs_tell_is_told_before_weights_come(
    tmp_path: Path, hub: HubServer
) -> None:
    """The weights are padded, so that a download of them would show."""
    base, (donor,) = family(tmp_path, 1)
    edit_json(donor / "config.json", num_hidden_layers=9)
    entries = {}
    for name, folder in (("base", base), ("donor", donor)):
        repo = hub.add_folder(f"someone/{name}", folder)
        files = {
            path: {"sha256": sha256_of(content), "size": size_of(content)}
            for path, content in repo.files[repo.head].items()
        }
        entries[name] = {
            "kind": "model",
            "repo": repo.name,
            "revision": repo.head,
            "files": files,
            "out": f"models/{name}",
        }
    places = {"p1": {"d1": {"name": "donor", "path": "models/donor"}}}
    recipe = {"name": "r", "sources": entries, "loras": {}, "base": "models/base", "parts": places}
    open_source = partial(open_files, root=tmp_path, scratch=tmp_path / "scratch", delivery=HURRY)
    with pytest.raises(CheckpointError, match="number of layers is 9"):
        check_source("donor", recipe, parse_sources(recipe), Descriptions(open_source))
    asked = [r.byte_range for r in hub.bytes_of("model.safetensors")]
    assert asked and all(re.fullmatch(r"bytes=\d+-\d+", r) for r in asked), asked
