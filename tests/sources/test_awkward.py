"""Each awkward thing of the sources of 2023 is handled by a rule, seen on the embedded family."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from remerge.methods.ties import Donor, TiesSettings, plan_ties
from remerge.shards.artefact import build, companions_of
from remerge.sources.files import open_files
from remerge.sources.intake import take_in_model
from remerge.sources.pinned import parse_sources
from remerge.tensors.checkpoint import open_checkpoint, read_config
from remerge.tensors.json_files import read_json
from tests.sources.hub_server import HubServer

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded models as the fetch stage makes them."""
    folder = tmp_path_factory.mktemp("family")
    recipe: dict[str, Any] = yaml.safe_load((ROOT / "conf" / "pins" / "tiny.yaml").read_text())
    opened = partial(open_files, root=ROOT, scratch=folder / "scratch")
    for name, source in parse_sources(recipe).items():
        if source.kind == "model":
            with opened(source) as files:
                take_in_model(
                    files,
                    folder / name,
                    scratch=folder / "scratch",
                    shard_bytes=10**7,
                    threads=1,
                )
    return folder


def test_the_recipe_corrects_what_the_bases_config_says_wrong(models: Path) -> None:
    wrong = read_json(ROOT / "embedded" / "sources" / "base" / "config.json")
    assert wrong["max_position_embeddings"] == 256
    assert read_config(models / "base")["max_position_embeddings"] == 512


def test_buffers_are_dropped_and_recorded(models: Path) -> None:
    for name in ("base", "brackets", "dates"):
        assert not [n for n in open_checkpoint(models / name).tensors if "inv_freq" in n]
        notes = read_json(models / name / "manifest.json")["notes"]
        assert [name, "model.layers.0.self_attn.rotary_emb.inv_freq", "buffer, dropped"] in notes


def test_float32_stays_float32_and_a_stray_file_is_not_taken(models: Path) -> None:
    tensors = open_checkpoint(models / "brackets").tensors
    assert {t.dtype for t in tensors.values()} == {"F32"}
    assert not [n for n in tensors if n.endswith(("qweight", "scales"))]


def test_tokens_without_rows_and_rows_without_tokens_end_at_the_base(
    models: Path, tmp_path: Path
) -> None:
    """`<pad>` = 352 has no row, rows 352 to 383 have no token; the result has neither."""
    assert read_json(models / "addition" / "added_tokens.json") == {"<pad>": 352}
    assert open_checkpoint(models / "lookup").tensors["lm_head.weight"].shape[0] == 384
    base = open_checkpoint(models / "base")
    donors = [
        Donor(open_checkpoint(models / "addition"), 0.5, 1.0),
        Donor(open_checkpoint(models / "lookup"), 0.5, 1.0, "truncate"),
        Donor(open_checkpoint(models / "brackets"), 0.5, 1.0),
    ]
    plan = plan_ties(base, donors, TiesSettings(), dtype="F16", shard_bytes=10**7, label="ties")
    out = tmp_path / "out"
    build(
        plan,
        out,
        companions=companions_of(models / "base"),
        scratch=tmp_path / "scratch",
        threads=1,
    )
    tensors = open_checkpoint(out).tensors
    assert tensors["lm_head.weight"].shape[0] == 352
    assert {t.dtype for t in tensors.values()} == {"F16"}
    assert not (out / "added_tokens.json").exists()
    assert read_config(out)["vocab_size"] == 352
    dropped = "32 vocabulary rows beyond the base, dropped"
    notes = read_json(out / "manifest.json")["notes"]
    assert ["lookup", "lm_head.weight", dropped] in notes
    assert ["lookup", "model.embed_tokens.weight", dropped] in notes


def test_the_awkward_files_of_the_hub_are_pinned_as_the_recipe_of_13b_selects(
    hub: HubServer,
) -> None:
    from remerge.pins.lookup import look_up

    text = (ROOT / "conf" / "pins" / "stheno_l2_13b.yaml").read_text()
    entry = yaml.safe_load(text)["sources"]["legerdemain"]
    hub.add_folder(entry["repo"], ROOT / "embedded" / "sources" / "brackets")
    found = look_up(entry, "main", "source 'legerdemain'")
    assert sorted(found.files) == [
        "config.json",
        "generation_config.json",
        "pytorch_model-00001-of-00003.bin",
        "pytorch_model-00002-of-00003.bin",
        "pytorch_model-00003-of-00003.bin",
        "pytorch_model.bin.index.json",
        "special_tokens_map.json",
        "tokenizer.model",
        "tokenizer_config.json",
    ]
