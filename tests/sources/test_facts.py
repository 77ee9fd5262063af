"""What public records say of the sources of Stheno-L2-13B stands in the recipe, digit by digit.

Here is the table; whoever changes the recipe away from a record has to change it here as well.
`remerge pin` may fill in what no record names, and writes the new name of an account.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from remerge.cli import main
from remerge.pins.lookup import look_up
from remerge.pins.pin import pin_files, sources_files
from remerge.recipes.described import described, pins_of
from remerge.sources.files import open_files
from remerge.sources.intake import take_in_model
from remerge.stages.compose import composed
from remerge.tensors.checkpoint import open_checkpoint, raw_bytes
from tests.sources.conftest import HURRY, Pinned
from tests.sources.hub_server import HubServer
from tests.sources.unpinned import unpinned_conf

ROOT = Path(__file__).resolve().parents[2]
NAMES = [
    "config.json",
    "tokenizer.model",
    "pytorch_model.bin.index.json",
    *(f"pytorch_model-{i:05d}-of-00003.bin" for i in (1, 2, 3)),
]

#: Source: its account and those it was renamed to, its name, its revision or None, bytes.
FACTS: dict[str, tuple[tuple[str, ...], str, str | None, int]] = {
    "llama2_13b_thebloke": (
        ("TheBloke",),
        "Llama-2-13B-fp16",
        "a862856f321369b52b83f796f6d97bb23682a9f4",
        26_030_000_000,
    ),
    "chronos": (
        ("elinas",),
        "chronos-13b-v2",
        "4d963ea0d6715a0b6402c04f48ff93a58a8b5661",
        26_030_000_000,
    ),
    "airoboros": (("jondurbin",), "airoboros-l2-13b-2.1", None, 26_030_000_000),
    "hermes": (
        ("NousResearch",),
        "Nous-Hermes-Llama2-13b",
        "33bdba74fae7a1a707d2b0b29888ce7d1ad7152c",
        26_030_000_000,
    ),
    "kimiko": (("nRuaif", "Chat-Error"), "Kimiko-v2-13B", None, 62_800_000),
    "legerdemain": (
        ("CalderaAI",),
        "13B-Legerdemain-L2",
        "d6624ce1bcc6b50c86b86e879a8c9822218b84d2",
        52_060_000_000,
    ),
    "limarp": (("lemonilia",), "limarp-llama2-v2", None, 250_000_000),
    "wizardlm": (
        ("ehartford", "cognitivecomputations"),
        "WizardLM-1.0-Uncensored-Llama2-13b",
        "134cea14627fd875f6f277cad92f988024855478",
        26_030_000_000,
    ),
    "spring_dragon": (
        ("Henk717",),
        "spring-dragon",
        "427361f29f352cca79c0be7f0e2eba5ba6aeeb27",
        26_030_000_000,
    ),
}
#: Facts that no parameter holds: they stand in comments of conf/ and in docs/sources.md.
PUBLISHED = {
    "TheBloke/Stheno-L2-13B-GPTQ": "c8a932bafff26a4da04aec522509ab6aa4a5a996",
    "TheBloke/Stheno-L2-13B-GGUF": "68150d926e81662a1352307f521a3d3d334832b8",
    "TheBloke/Stheno-L2-13B-GGML": "ee7f8b205c57afc6055d316d154f9dc6509bd6db",
    "TheBloke/Stheno-Inverted-L2-13B-GGUF": "6c1aec94bbd3a3cc4faf6fc06af6f061fc15df29",
    "TheBloke/Stheno-Inverted-L2-13B-GPTQ": "a086497d9ac06b25034d6763671b5d034db8bfd5",
}
#: Another base that people use: meta-llama/Llama-2-13b-hf.
META = "5c31dfb671ce7cfe2d7bb7c04375e44c55e815b1"
#: Other commits that a record names.
REMARKED = (
    "36b20bdd53ff3d2d4deee1ebfb33af2255e751f9",  # hermes: its parent, with added_tokens.json
    "d836c16f47e0a34ae6224096f16487a6e1f68452",  # spring_dragon: where its weights come from
)


@pytest.fixture(scope="module")
def recipe() -> dict[str, Any]:
    params = yaml.safe_load(composed(["recipe=stheno_l2_13b"], ROOT / "conf"))
    return dict(described(params, pins_of(params, ROOT / "conf" / "pins"))["recipe"])


def test_the_recipe_has_these_sources_and_no_others(recipe: dict[str, Any]) -> None:
    assert recipe["sources"].keys() == FACTS.keys()


@pytest.mark.parametrize("name", FACTS)
def test_a_source_is_the_one_of_the_records(recipe: dict[str, Any], name: str) -> None:
    compare(name, recipe["sources"][name])


def compare(name: str, entry: dict[str, Any]) -> None:
    """The entry of the recipe with the row of the table."""
    accounts, repo, revision, size = FACTS[name]
    assert entry["repo"] in [f"{account}/{repo}" for account in accounts]
    assert entry["expected_bytes"] == size
    if revision:
        assert entry["revision"] == revision
    else:
        assert entry["revision"] is None or re.fullmatch("[0-9a-f]{40}", entry["revision"])


def test_a_pinned_recipe_states_the_same_and_passes_its_plan(
    hub: HubServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """All of it against a hub: check, pin, check, plan; an account was renamed meanwhile."""
    embedded = ROOT / "embedded" / "sources"
    for name, ((account, *others), repo, revision, size) in FACTS.items():
        model = "brackets" if name == "legerdemain" else "addition"
        made = hub.add_folder(
            f"{account}/{repo}", embedded / (model if size > 1e9 else "reversal_lora")
        )
        commit = revision or ("172e30e" * 6)[:40]
        made.commits, made.files = [commit], {commit: made.files[made.head]}
        if others:
            hub.repos[f"{others[0]}/{repo}"] = hub.repos.pop(f"{account}/{repo}")
            hub.renamed[f"{account}/{repo}"] = f"{others[0]}/{repo}"
    unpinned_conf(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"))
    assert main(["pin", "stheno_l2_13b", "--check"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(FACTS)
    assert len([line for line in lines if "holds; digests not pinned yet" in line]) == 6
    assert main(["pin", "stheno_l2_13b"]) == 0
    assert main(["pin", "stheno_l2_13b", "--check"]) == 0
    params = yaml.safe_load(composed(["recipe=stheno_l2_13b"], tmp_path / "conf"))
    pinned = described(params, pins_of(params, tmp_path / "conf" / "pins"))["recipe"]["sources"]
    for name, entry in pinned.items():
        compare(name, entry)
        assert entry["files"]
        assert entry["repo"].split("/")[0] == FACTS[name][0][-1]
    hub.requests.clear()
    assert main(["plan", "stheno_l2_13b", "quantize=none"]) == 0
    whole = [r for r in hub.requests if r.path.endswith(".bin") and not r.byte_range]
    assert not whole


def test_airoboros_is_the_inferred_head_of_that_day_and_marked_as_ours(
    recipe: dict[str, Any],
) -> None:
    entry = recipe["sources"]["airoboros"]
    assert entry["ref"] == "172e30e"
    assert (entry["revision"] or "172e30e").startswith("172e30e")
    assert "172e30e, inferred" in recipe["assumptions"]["airoboros"]


def test_what_was_never_published_is_marked_as_ours(recipe: dict[str, Any]) -> None:
    assert {"density", "weights", "gradient"} <= recipe["assumptions"].keys()
    assert all(text.startswith("ours: ") for text in recipe["assumptions"].values())
    params = yaml.safe_load(composed(["recipe=stheno_l2_13b"], ROOT / "conf"))
    assert params["ties"]["density"] == 0.33
    weights = [p["weight"] for part in recipe["parts"].values() for p in part.values() if p["name"]]
    assert weights == [1.0] * 6


def test_the_parts_are_those_of_the_card(recipe: dict[str, Any]) -> None:
    donors = {
        part: [place["name"] for place in places.values() if place["name"]]
        for part, places in recipe["parts"].items()
    }
    assert donors == {
        "p1": ["chronos", "airoboros", "hermes"],
        "p2": ["legerdemain", "wizardlm", "spring_dragon"],
    }
    baked = {lora["model"]: lora["adapter"] for lora in recipe["loras"].values()}
    assert baked == {
        "models/hermes": "adapters/kimiko",
        "models/legerdemain": "adapters/limarp",
    }


def test_hermes_alone_has_rows_to_leave_out(recipe: dict[str, Any]) -> None:
    """32032 rows; `<pad>` of chronos and spring_dragon is a token without a row: no rule."""
    rules = {
        place["name"]: place["vocabulary"]
        for part in recipe["parts"].values()
        for place in part.values()
        if place["name"]
    }
    assert rules.pop("hermes") == "truncate"
    assert set(rules.values()) == {None}
    assert recipe["parts"]["p1"]["d3"]["path"] == "baked/hermes"


def test_the_base_is_corrected_to_4096_positions_and_nothing_else_is(
    recipe: dict[str, Any],
) -> None:
    corrected = {n: e["config"] for n, e in recipe["sources"].items() if e.get("config")}
    assert corrected == {"llama2_13b_thebloke": {"max_position_embeddings": 4096}}
    assert recipe["dtype"] == "float16"


@pytest.mark.parametrize("name", [n for n, (_, _, _, size) in FACTS.items() if size > 10**9])
def test_the_pickled_shards_are_selected_and_strays_are_not(
    recipe: dict[str, Any], name: str, hub: HubServer
) -> None:
    content: dict[str, Any] = dict.fromkeys(NAMES, b"{}")
    shards = [file for file in NAMES if file.endswith(".bin")]
    content["pytorch_model.bin.index.json"] = json.dumps(
        {"weight_map": {f"tensor {i}": file for i, file in enumerate(shards)}}
    ).encode()
    content |= {"4bit-128g.safetensors": b"stray", "README.md": b"", "adapter_model.bin": b""}
    entry = recipe["sources"][name]
    hub.add(entry["repo"], content)
    found = look_up({**entry, "files": None}, "main", name).files
    assert sorted(found) == sorted(NAMES)


def test_other_facts_stand_where_people_read_them() -> None:
    docs = (ROOT / "docs" / "sources.md").read_text()
    conf = "".join(
        path.read_text() for path in sorted((ROOT / "conf").rglob("stheno_l2_13b*.yaml"))
    )
    for repo, revision in PUBLISHED.items():
        assert re.search(rf"{repo}`? \| `{revision}`", docs), repo
        assert revision in conf
    for revision in REMARKED:
        assert revision in conf


def test_another_base_is_another_recipe(hub: HubServer, tmp_path: Path) -> None:
    ours = yaml.safe_load(composed(["recipe=stheno_l2_13b"], ROOT / "conf"))
    meta = yaml.safe_load(composed(["recipe=stheno_l2_13b_meta"], ROOT / "conf"))
    base = pins_of(meta, ROOT / "conf" / "pins")["llama2_13b_meta"]
    assert base.repo == "meta-llama/Llama-2-13b-hf"
    assert base.revision == META
    assert meta["fetch"].keys() - ours["fetch"].keys() == {"llama2_13b_meta"}
    for params in (ours, meta):
        for section in ("fetch", "pins", "places", "composed"):
            del params[section]
        # Files that runtimes read name the models that they were made of.
        params["description"].pop("base_model", None)
        del params["digests"]["gguf"]
        del params["recipe"]["base"], params["recipe"]["name"], params["recipe"]["pins"]
    assert ours == meta


def test_another_base_is_pinned_with_its_recipe(hub: HubServer, tmp_path: Path) -> None:
    conf = unpinned_conf(tmp_path)
    files = sources_files("stheno_l2_13b_meta", conf)
    assert [path.relative_to(conf).as_posix() for path in files] == [
        "pins/stheno_l2_13b.yaml",
        "pins/llama2_13b_meta.yaml",
    ]
    made = {"config.json": b"{}", "model.safetensors": b"safe", "pytorch_model.bin": b"unsafe"}
    repo = hub.add("meta-llama/Llama-2-13b-hf", dict(made))
    path = conf / "pins" / "llama2_13b_meta.yaml"
    repo.commits, repo.files = [META], {META: repo.files[repo.head]}
    pin_files([path], ["llama2_13b_meta"])
    params = yaml.safe_load(composed(["recipe=stheno_l2_13b_meta"], conf))
    base = pins_of(params, conf / "pins")["llama2_13b_meta"]
    assert base.revision == META
    assert sorted(base.files or {}) == ["config.json", "model.safetensors"]


def test_bfloat16_weights_beside_float32_storages_are_taken_in_as_they_are(
    hub: HubServer, pinned: Pinned, tmp_path: Path
) -> None:
    """The pickles of Nous-Hermes: both kinds of storage in one archive."""
    weights = {
        "model.embed_tokens.weight": torch.randn(8, 4).to(torch.bfloat16),
        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.rand(2),
        "model.layers.0.input_layernorm.weight": torch.rand(4),
        "model.norm.weight": torch.rand(4).to(torch.bfloat16),
    }
    torch.save(weights, tmp_path / "pytorch_model.bin")
    files = {"config.json": b'{"model_type": "llama"}'}
    repo = hub.add("some/mixed", {**files, "pytorch_model.bin": tmp_path / "pytorch_model.bin"})
    out, scratch = tmp_path / "out", tmp_path / "scratch"
    with open_files(pinned(repo), root=tmp_path, scratch=scratch, delivery=HURRY) as source:
        take_in_model(source, out, scratch=scratch, shard_bytes=10**6, threads=1)
    tensors = open_checkpoint(out).tensors
    assert {name: info.dtype for name, info in tensors.items()} == {
        "model.embed_tokens.weight": "BF16",
        "model.layers.0.input_layernorm.weight": "F32",
        "model.norm.weight": "BF16",
    }
    for name, info in tensors.items():
        expected = weights[name].view(torch.uint8).numpy().ravel()
        assert np.array_equal(raw_bytes(info), expected)
