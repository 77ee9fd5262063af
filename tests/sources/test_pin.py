"""`remerge pin` turns names into what can be held to, and says when it no longer holds."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from remerge.cli import main
from remerge.errors import RecipeError, SourceError
from remerge.sources.pin import check_file, look_up, pin_file, sources_file
from remerge.sources.pinned import PinnedFile, parse_sources
from remerge.sources.recipe_text import Pins, with_pins
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
    pin_file(recipe)
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
    pin_file(recipe)
    assert not [r for r in hub.requests if r.path.endswith((".bin", ".safetensors"))]


def test_comments_and_all_else_stay(recipe: Path) -> None:
    pin_file(recipe)
    text = recipe.read_text()
    kept = [line for line in text.splitlines() if "sha256" not in line and "files:" not in line]
    before = RECIPE.splitlines()
    assert [line.split("revision")[0] for line in kept] == [
        line.split("revision")[0] for line in before
    ]
    pin_file(recipe)
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


def test_an_entry_on_one_line_is_refused() -> None:
    text = "sources:\n  a: {repo: x/y, revision: null}\n"
    with pytest.raises(RecipeError, match="'a' stands on one line"):
        with_pins(text, {"a": Pins("x/y", "f" * 40, {})}, "here")


def test_check_says_that_pins_hold_and_what_has_moved(hub: HubServer, recipe: Path) -> None:
    pin_file(recipe)
    assert not check_file(recipe).broken
    repo = hub.repos["embedded/base"]
    before = repo.head
    files = dict(repo.files[before])
    repo.commit({**files, "config.json": b"{}", "NEW.md": b"new"})
    report = check_file(recipe)
    assert not report.broken
    assert f"base: main moved to {repo.head}, pinned is {before}: other bytes in config.json" in (
        report.lines
    )
    pin_file(recipe)
    assert yaml.safe_load(recipe.read_text())["sources"]["base"]["revision"] == before
    pin_file(recipe, ["base"], update=True)
    assert yaml.safe_load(recipe.read_text())["sources"]["base"]["revision"] == repo.head


def test_check_finds_a_pin_that_does_not_hold(hub: HubServer, recipe: Path) -> None:
    pin_file(recipe)
    text = recipe.read_text()
    digest = sha256_of(EMBEDDED / "base" / "config.json")
    recipe.write_text(text.replace(digest, "f" * 64))
    report = check_file(recipe, ["base"])
    assert report.broken
    assert report.lines == [f"base: config.json has SHA-256 {digest}, pinned is {'f' * 64}"]
    del hub.repos["embedded/base"]
    assert "embedded/base is not at" in check_file(recipe, ["base"]).lines[0]


def test_check_finds_what_is_not_pinned(recipe: Path) -> None:
    report = check_file(recipe)
    assert report.broken
    assert "lora: not pinned (revision absent)" in report.lines


def test_a_short_id_is_resolved_among_the_commits(hub: HubServer) -> None:
    repo = hub.add("some/model", {"config.json": b"{}"})
    first = repo.head
    repo.commit({"config.json": b"{1}"})
    entry = {"repo": "some/model", "kind": "model"}
    assert look_up(entry, first[:7], "source 'x'").revision == first
    with pytest.raises(SourceError, match="0 commits of some/model begin with abcdef0"):
        look_up(entry, "abcdef0", "source 'x'")


def test_a_renamed_repository_is_pinned_under_its_new_name(hub: HubServer, recipe: Path) -> None:
    hub.repos["new/base"] = hub.repos.pop("embedded/base")
    hub.renamed["embedded/base"] = "new/base"
    report = pin_file(recipe, ["base"])
    assert report.lines[0] == "base: embedded/base is called new/base now"
    assert yaml.safe_load(recipe.read_text())["sources"]["base"]["repo"] == "new/base"


def test_nothing_is_written_when_one_source_fails(hub: HubServer, recipe: Path) -> None:
    del hub.repos["embedded/reversal_lora"]
    with pytest.raises(SourceError, match="embedded/reversal_lora is not at"):
        pin_file(recipe)
    assert recipe.read_text() == RECIPE


def test_listed_files_are_pinned_and_a_missing_one_is_named(hub: HubServer, tmp_path: Path) -> None:
    hub.add("some/data", {"a/x.parquet": b"1", "b/y.parquet": b"2"})
    path = tmp_path / "suite.yaml"
    head = "recipe:\n  sources:\n    data:\n      kind: dataset\n      repo: some/data\n"
    path.write_text(head + "      revision: null\n      files:\n        a/x.parquet: {}\n")
    pin_file(path)
    files = yaml.safe_load(path.read_text())["recipe"]["sources"]["data"]["files"]
    assert files == {"a/x.parquet": {"sha256": sha256_of(b"1"), "size": 1}}
    path.write_text(head + "      revision: null\n      files:\n        a/z.parquet: {}\n")
    with pytest.raises(SourceError, match=r"has no file 'a/z\.parquet'"):
        pin_file(path)


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


def test_a_recipe_that_is_none_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="'nothing': neither a recipe"):
        sources_file("nothing", tmp_path)
    (tmp_path / "x.yaml").write_text("a: 1\n")
    with pytest.raises(RecipeError, match="has no `sources`"):
        pin_file(tmp_path / "x.yaml")
