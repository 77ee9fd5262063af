"""`remerge pin` turns names into what can be held to, and says when it no longer holds."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from huggingface_hub.errors import HfHubHTTPError

from remerge.cli import main
from remerge.errors import CheckpointError, RecipeError, SourceError
from remerge.pins.lookup import look_up, resolve
from remerge.pins.pin import check_files, pin_files, sources_files
from remerge.pins.recipe_text import Pins, with_pins
from remerge.sources.hub import explain
from remerge.sources.pinned import PinnedFile, parse_sources
from tests.sources.hub_server import HubServer, sha256_of

EMBEDDED = Path(__file__).resolve().parents[2] / "embedded" / "sources"
RECIPE = """\
# Sources of a made recipe.
sources:
  # the base of all
  base:
    kind: model
    repo: embedded/base  # fp16
    revision: null
    out: models/base
    config: {max_position_embeddings: 512}  # the source says 256
  brackets:
    kind: model
    repo: embedded/brackets
    revision: null
    select: &pickles ["*.json", "tokenizer.model", "pytorch_model-*.bin"]
    out: models/brackets
  lora:
    kind: adapter
    repo: embedded/reversal_lora
    ref: main
    revision: null
    subfolder: adapter
    out: adapters/lora
"""


@pytest.fixture
def recipe(hub: HubServer, tmp_path: Path) -> Path:
    hub.add_folder("embedded/base", EMBEDDED / "base")
    hub.add_folder("embedded/brackets", EMBEDDED / "brackets")
    adapter = EMBEDDED / "reversal_lora"
    hub.add("embedded/reversal_lora", {f"adapter/{p.name}": p for p in adapter.iterdir()})
    path = tmp_path / "made_sources.yaml"
    path.write_text(RECIPE)
    return path


def test_a_pinned_recipe_is_one_that_can_be_fetched(hub: HubServer, recipe: Path) -> None:
    pin_files([recipe])
    sources = parse_sources(yaml.safe_load(recipe.read_text()))
    for name, source in sources.items():
        repo = hub.repos[source.repo]
        assert source.revision == repo.head
        prefix = "adapter/" if name == "lora" else ""
        for file, pin in source.files.items():
            assert pin.sha256 == sha256_of(repo.files[repo.head][prefix + file])
    assert "4bit-128g.safetensors" not in sources["brackets"].files
    assert sum(file.endswith(".bin") for file in sources["brackets"].files) == 3


def test_no_weights_are_downloaded(hub: HubServer, recipe: Path) -> None:
    pin_files([recipe])
    assert not [r for r in hub.requests if r.path.endswith((".bin", ".safetensors"))]


def test_comments_and_all_else_stay(recipe: Path) -> None:
    pin_files([recipe])
    text = recipe.read_text()
    kept = [line for line in text.splitlines() if "sha256" not in line and "files:" not in line]
    before = RECIPE.splitlines()
    assert [line.split("revision")[0] for line in kept] == [
        line.split("revision")[0] for line in before
    ]
    pin_files([recipe])
    assert recipe.read_text() == text


@pytest.mark.parametrize(
    "line",
    ["revision: null  # not known", "revision:", 'revision: "main" # ?', "revision: 172e30e"],
)
def test_a_comment_behind_the_revision_stays(line: str) -> None:
    text = f"sources:\n  a:\n    repo: x/y\n    {line}\n    out: z\n\n# the end"
    new = with_pins(text, {"a": Pins("x/y", "f" * 40, {"b": PinnedFile("c" * 64, 1)})}, "here")
    comment = line[line.index("#") - 1 :] if "#" in line else ""
    assert f"    revision: {'f' * 40}" in new
    assert comment in new
    assert new.endswith("size: 1}\n\n# the end")


def test_names_that_yaml_reads_otherwise_are_quoted() -> None:
    text = "sources:\n  a:\n    repo: x/y\n    revision: null\n"
    names = ["null", "1.0", "yes", "- x", "#x", "'x", "plain.json", "a #b", "0x1F", "é"]
    files = {name: PinnedFile("c" * 64, 1) for name in names}
    new = with_pins(text, {"a": Pins("x/y", "f" * 40, files)}, "here")
    assert list(yaml.safe_load(new)["sources"]["a"]["files"]) == names
    assert "\n      plain.json: {sha256" in new


def test_an_entry_on_one_line_is_refused() -> None:
    text = "sources:\n  a: {repo: x/y, revision: null}\n"
    with pytest.raises(RecipeError, match="'a' stands on one line"):
        with_pins(text, {"a": Pins("x/y", "f" * 40, {})}, "here")


def test_check_says_that_pins_hold_and_what_has_moved(hub: HubServer, recipe: Path) -> None:
    pin_files([recipe])
    assert not check_files([recipe]).broken
    repo = hub.repos["embedded/base"]
    before = repo.head
    files = dict(repo.files[before])
    repo.commit({**files, "config.json": b"{}", "NEW.md": b"new"})
    report = check_files([recipe])
    assert not report.broken
    assert f"base: main moved to {repo.head}, pinned is {before}: other bytes in config.json" in (
        report.lines
    )
    pin_files([recipe])
    assert yaml.safe_load(recipe.read_text())["sources"]["base"]["revision"] == before
    pin_files([recipe], ["base"], update=True)
    assert yaml.safe_load(recipe.read_text())["sources"]["base"]["revision"] == repo.head


def test_check_finds_a_pin_that_does_not_hold(hub: HubServer, recipe: Path) -> None:
    pin_files([recipe])
    text = recipe.read_text()
    digest = sha256_of(EMBEDDED / "base" / "config.json")
    recipe.write_text(text.replace(digest, "f" * 64))
    report = check_files([recipe], ["base"])
    assert report.broken
    assert report.lines == [f"base: config.json has SHA-256 {digest}, pinned is {'f' * 64}"]
    del hub.repos["embedded/base"]
    assert "embedded/base is not at" in check_files([recipe], ["base"]).lines[0]


def test_check_finds_what_is_not_pinned(recipe: Path) -> None:
    report = check_files([recipe])
    assert report.broken
    assert "lora: not pinned (revision absent)" in report.lines


def test_a_short_id_is_resolved_among_the_commits(hub: HubServer) -> None:
    repo = hub.add("some/model", {"config.json": b"{}"})
    first = repo.head
    repo.commit({"config.json": b"{1}"})
    entry = {"repo": "some/model", "kind": "model"}
    assert resolve(entry, first[:7], "source 'x'").sha == first
    with pytest.raises(SourceError, match="0 commits of some/model begin with abcdef0"):
        resolve(entry, "abcdef0", "source 'x'")


def test_a_renamed_repository_is_pinned_under_its_new_name(hub: HubServer, recipe: Path) -> None:
    hub.repos["new/base"] = hub.repos.pop("embedded/base")
    hub.renamed["embedded/base"] = "new/base"
    report = pin_files([recipe], ["base"])
    assert report.lines[0] == "base: embedded/base is called new/base now"
    assert yaml.safe_load(recipe.read_text())["sources"]["base"]["repo"] == "new/base"


def test_nothing_is_written_when_one_source_fails(hub: HubServer, recipe: Path) -> None:
    del hub.repos["embedded/reversal_lora"]
    with pytest.raises(SourceError, match="embedded/reversal_lora is not at"):
        pin_files([recipe])
    assert recipe.read_text() == RECIPE


def test_listed_files_are_pinned_and_a_missing_one_is_named(hub: HubServer, tmp_path: Path) -> None:
    hub.add("some/data", {"a/x.parquet": b"1", "b/y.parquet": b"2"})
    path = tmp_path / "suite.yaml"
    head = "recipe:\n  sources:\n    data:\n      kind: dataset\n      repo: some/data\n"
    path.write_text(head + "      revision: null\n      files:\n        a/x.parquet: {}\n")
    pin_files([path])
    files = yaml.safe_load(path.read_text())["recipe"]["sources"]["data"]["files"]
    assert files == {"a/x.parquet": {"sha256": sha256_of(b"1"), "size": 1}}
    path.write_text(head + "      revision: null\n      files:\n        a/z.parquet: {}\n")
    with pytest.raises(SourceError, match=r"has no file 'a/z\.parquet'"):
        pin_files([path])


def test_the_verb_prints_and_returns_a_status(
    recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["pin", str(recipe), "--check"]) == 1
    assert main(["pin", str(recipe)]) == 0
    assert main(["pin", str(recipe), "--check"]) == 0
    out = capsys.readouterr().out
    assert "base: not pinned (revision absent)" in out
    assert "9 files" in out
    assert " holds" in out


ADAPTER = {"repo": "some/lora", "kind": "adapter"}
MODEL = {"repo": "some/model", "kind": "model"}
INDEX = json.dumps({"weight_map": {"a": "pytorch_model-00001-of-00002.bin"}}).encode()


def test_an_adapter_in_two_forms_is_pinned_in_the_safer_one(hub: HubServer) -> None:
    names = ["adapter_config.json", "adapter_model.bin", "adapter_model.safetensors"]
    hub.add("some/lora", dict.fromkeys(names, b"{}"))
    for entry in (ADAPTER, ADAPTER | {"select": names}):
        found = look_up(entry, "main", "source 'lora'").files
        assert sorted(found) == ["adapter_config.json", "adapter_model.safetensors"]
    both: dict[str, Any] = {name: {} for name in names}
    with pytest.raises(CheckpointError, match=r"lists both adapter_model\.safetensors and"):
        look_up(ADAPTER | {"files": both}, "main", "source 'lora'")


@pytest.mark.parametrize(
    "files, select, says",
    [
        (
            ["config.json", "pytorch_model.bin"],
            ["config.json", "pytorch_model-*.bin"],
            "none of its files is a checkpoint.*that are there: pytorch_model.bin; correct",
        ),
        (
            ["config.json", "pytorch_model-00001-of-00002.bin"],
            None,
            "none of its files is a checkpoint",
        ),
        (
            ["config.json", "pytorch_model.bin.index.json"],
            None,
            "index.json names 'pytorch_model-00001-of-00002.bin', which the recipe does not list",
        ),
        (["pytorch_model.bin"], None, "lists no config.json"),
    ],
)
def test_what_is_no_whole_checkpoint_is_not_pinned(
    hub: HubServer, files: list[str], select: list[str] | None, says: str
) -> None:
    content = {name: INDEX if name.endswith("index.json") else b"{}" for name in files}
    hub.add("some/model", dict(content))
    with pytest.raises(CheckpointError, match=says):
        look_up(MODEL | {"select": select}, "main", "source 'm'")


def test_of_several_checkpoints_the_safer_whole_one_is_pinned(hub: HubServer) -> None:
    pickles = {
        "config.json": b"{}",
        "pytorch_model.bin.index.json": INDEX,
        "pytorch_model-00001-of-00002.bin": b"a shard",
        "pytorch_model-00007-of-00009.bin": b"of another time",
        "pytorch_model.bin": b"all of it again",
    }
    hub.add("some/model", dict(pickles))
    assert sorted(look_up(MODEL, "main", "source 'm'").files) == [
        "config.json",
        "pytorch_model-00001-of-00002.bin",
        "pytorch_model.bin.index.json",
    ]
    hub.add("some/model", {**pickles, "model.safetensors": b"safe"})
    found = look_up(MODEL, "main", "source 'm'").files
    assert sorted(found) == ["config.json", "model.safetensors"]


def test_the_licence_that_the_hub_states_is_written_where_the_recipe_has_none(
    hub: HubServer, recipe: Path
) -> None:
    hub.repos["embedded/base"].card = {"license": "llama2"}
    hub.repos["embedded/brackets"].card = {"license": "other", "license_name": "a\nb: c"}
    lines = pin_files([recipe]).lines
    sources = yaml.safe_load(recipe.read_text())["sources"]
    assert sources["base"]["licence"] == "llama2"
    assert "licence" not in sources["brackets"]
    unknown = "neither recipe nor hub states a licence; the model card will say so"
    assert [line for line in lines if unknown in line] == [
        f"brackets: {unknown}",
        f"lora: {unknown}",
    ]
    hub.repos["embedded/base"].card = {"license": "mit"}
    assert "base: the hub states licence mit, the recipe llama2; kept" in pin_files([recipe]).lines


def test_pins_without_digests_are_one_line_a_source(hub: HubServer, recipe: Path) -> None:
    heads = {name: hub.repos[f"embedded/{name}"].head for name in ("base", "brackets")}
    text = recipe.read_text()
    for head in heads.values():
        text = text.replace("revision: null", f"revision: {head}", 1)
    recipe.write_text(text)
    report = check_files([recipe])
    assert report.broken
    assert report.lines == [
        *(f"{name}: {head} holds; digests not pinned yet" for name, head in heads.items()),
        "lora: not pinned (revision absent)",
    ]


def test_a_branch_that_lost_its_files_is_news_and_no_fault(hub: HubServer, recipe: Path) -> None:
    pin_files([recipe])
    hub.repos["embedded/base"].commit({"README.md": b"moved elsewhere"})
    report = check_files([recipe], ["base"])
    assert not report.broken
    assert "base: the pin holds, but main is another thing now" in report.lines[0]


def test_what_is_no_answer_of_a_hub_is_one_line(
    hub: HubServer, recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.sizes = False
    with pytest.raises(SourceError, match=r"what no hub says \(0.size: Field required\).*check"):
        pin_files([recipe])
    hub.pages = True
    with pytest.raises(SourceError, match="answers with something else than JSON"):
        pin_files([recipe])
    monkeypatch.setenv("HF_ENDPOINT", "notaurl")
    with pytest.raises(SourceError, match="the address in HF_ENDPOINT cannot be reached"):
        pin_files([recipe])


def test_a_busy_hub_is_named_without_a_file_where_none_was_asked_for() -> None:
    response = httpx.Response(500, request=httpx.Request("GET", "http://hub"))
    error = HfHubHTTPError("no", response=response)
    assert "answers 500 for some/one; try" in str(explain(error, "some/one", "main", "", "here"))


def test_a_recipe_is_pinned_with_its_suite(monkeypatch: pytest.MonkeyPatch) -> None:
    root = Path(__file__).resolve().parents[2]
    monkeypatch.chdir(root)
    conf = Path("conf")
    own = [conf / "pins" / "stheno_l2_13b.yaml"]
    suite = conf / "pins" / "open_llm_leaderboard_v1.yaml"
    assert sources_files("stheno_l2_13b") == own
    assert sources_files("stheno_l2_13b_scored") == [*own, suite]
    assert sources_files("open_llm_leaderboard_v1") == [suite]


def test_without_a_recipe_that_of_the_parameters_is_meant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(Path(__file__).resolve().parents[2] / "conf", tmp_path / "conf")
    monkeypatch.chdir(tmp_path)
    assert main(["pin"]) == 1
    assert "params.yaml: No such file or directory; name a recipe" in capsys.readouterr().err
    Path("params.yaml").write_text("ties: {}\n")
    assert main(["pin"]) == 1
    assert "params.yaml: holds no recipe" in capsys.readouterr().err
    shutil.copy(Path(__file__).resolve().parents[2] / "params.yaml", "params.yaml")
    shutil.copytree(Path(__file__).resolve().parents[2] / "embedded", "embedded")
    assert main(["pin"]) == 0
    assert "base: embedded/sources/base (kept), 9 files, 3.8" in capsys.readouterr().out


def test_a_recipe_that_is_none_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="'nothing': neither a recipe"):
        sources_files("nothing", tmp_path)
    (tmp_path / "x.yaml").write_text("a: 1\n")
    with pytest.raises(RecipeError, match="has no `sources`"):
        pin_files([tmp_path / "x.yaml"])
