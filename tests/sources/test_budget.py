"""`remerge plan` knows what will come, and a full disk is told before work starts."""

from __future__ import annotations

import json
import struct
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from remerge.cli import main
from remerge.errors import ToolError
from remerge.files import free_bytes, require_space
from remerge.methods.gradient import Gradient, plan_gradient
from remerge.pins.budget import SourceSize, plan_budget
from remerge.shards.artefact import build
from remerge.sources.files import open_files
from remerge.sources.intake import take_in_model
from remerge.sources.pinned import Source
from remerge.tensors.checkpoint import open_checkpoint
from tests.sources.conftest import HURRY, Pinned
from tests.sources.hub_server import HubServer, sha256_of, size_of
from tests.sources.made_params import made_params, write_params
from tests.sources.unpinned import unpinned_conf

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"))


def test_the_recipe_of_2023_is_planned_and_names_its_three_unknown_sources(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    unpinned_conf(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert main(["plan", "stheno_l2_13b", "quantize=none"]) == 1
    out, err = capfd.readouterr()
    assert "fetch          legerdemain          52.06 GB" in out
    assert "to download: about 208.55 GB" in out
    assert (
        "recipe stheno_l2_13b is not pinned: airoboros, kimiko and limarp have no revision" in err
    )
    assert "nothing was downloaded. Run `remerge pin stheno_l2_13b`" in err


def test_the_embedded_recipe_is_planned_exactly(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "tiny", "quantize=gguf_f16"]) == 0
    out, _ = capfd.readouterr()
    assert "to download: 0.00 MB" in out
    assert "about" not in out
    (line,) = [line for line in out.splitlines() if line.startswith("quantize_eval  gguf_f16")]
    assert line.split()[-3:] == ["3.77", "MB", "0.0"]


def test_an_unknown_recipe_is_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "nothing"]) == 1
    assert len(capfd.readouterr().err.splitlines()) == 1


def params_of(entry: dict[str, Any]) -> dict[str, Any]:
    donor = {"name": "a", "path": "models/a"}
    return {
        "recipe": {
            "dtype": "float16",
            "base": "models/base",
            "sources": {
                "base": {"out": "models/base", **entry},
                "a": {"out": "models/a", **entry},
            },
            "loras": {},
            "parts": {"p1": {"d1": donor}, "p2": {"d1": donor}},
        },
        "quantize_eval": {"gguf_q8_0": {"kind": "quantize"}, "score": {"kind": "evaluate"}},
        "execution": {"downloads": 2},
    }


def test_downloads_are_temporary_and_outputs_are_kept() -> None:
    size = SourceSize(files=300, download=300, largest=100, weights=280, elements=70, exact=True)
    budget = plan_budget(params_of({"repo": "x/y"}), {"base": size, "a": size})
    assert budget.download == 600
    merged = 140
    assert budget.kept == 280 + 280 + 3 * merged + 74
    # The most is on disk either while the last source is converted or at the end.
    assert budget.peak == budget.kept
    by_item = {(step.stage, step.item): step for step in budget.steps}
    assert by_item["fetch", "a"].temporary == 200
    assert by_item["ties_p1", ""].reads == 560


def test_a_large_source_among_small_ones_makes_the_peak() -> None:
    small = SourceSize(10, 10, 10, 10, 5, exact=True)
    large = SourceSize(10_000, 10_000, 9_000, 100, 50, exact=True)
    budget = plan_budget(params_of({"repo": "x/y"}), {"base": small, "a": large})
    assert budget.peak == 10 + 10_000 + 100


def test_downloads_that_are_kept_count_where_they_stay() -> None:
    size = SourceSize(files=300, download=300, largest=100, weights=280, elements=70, exact=True)
    params = params_of({"repo": "x/y"})
    dropped = plan_budget(params, {"base": size, "a": size})
    params["execution"]["keep_downloads"] = True
    kept = plan_budget(params, {"base": size, "a": size})
    assert (dropped.cached, kept.cached) == (0, 600)
    assert kept.kept == dropped.kept
    assert kept.peak == dropped.peak + 600
    there = SourceSize(files=300, download=0, largest=100, weights=280, elements=70, exact=True)
    assert plan_budget(params, {"base": there, "a": there}).cached == 0


@pytest.mark.parametrize("network", ["0", "-1", "nan", "inf", "fast"])
def test_a_network_without_speed_is_one_line(
    network: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["plan", "tiny", "--network", network])
    assert f"invalid number above 0 value: '{network}'" in capfd.readouterr().err


@pytest.mark.parametrize(
    "text",
    [
        "",
        "recipe: {sources: {}}",
        "recipe: {sources: {a: 1}}",
        "recipe: {dtype: float16, base: x, sources: {}, parts: {}}",
        "recipe: {dtype: float16, base: m, sources: {a: {out: m}}, parts: [1]}",
        "recipe: {dtype: float16, base: m, sources: {a: {out: m, expected_bytes: x}}, parts: {}}",
        "[1, 2",
    ],
)
def test_parameters_that_are_not_whole_are_one_line(
    text: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "params.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    assert main(["plan"]) == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("error: params.yaml: ")


def test_what_has_no_rate_is_named_beside_the_sum(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    main(["plan", "tiny", "quantize=gguf_f16"])
    out = capfd.readouterr().out
    assert "without 10 items of quantize_eval: no rate is known" in out
    (line,) = [line for line in out.splitlines() if "gguf_f16" in line]
    assert line.endswith(" 0.0")  # a format has a rate of its own
    main(["plan", "tiny", "quantize=gptq_4bit_128g"])
    assert "without 11 items of quantize_eval" in capfd.readouterr().out


def test_every_header_is_read_once_for_a_plan(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A base of which three donors are fine-tunes is looked at once."""
    names = {"base": "addition", "a": "sorting", "b": "counting", "c": "dates"}
    sources = {}
    for name, folder in names.items():
        repo = hub.add_folder(f"some/{name}", ROOT / "embedded" / "sources" / folder)
        files = {
            path: {"sha256": sha256_of(content), "size": size_of(content)}
            for path, content in repo.files[repo.head].items()
        }
        sources[name] = {"kind": "model", "repo": repo.name, "revision": repo.head}
        sources[name] |= {"files": files, "out": f"models/{name}"}
    write_params(tmp_path, made_params(sources))
    monkeypatch.chdir(tmp_path)
    assert main(["plan"]) == 0
    asked = Counter((r.path, r.byte_range) for r in hub.requests if r.path.startswith("/blob"))
    assert asked
    assert max(asked.values()) == 1


def test_a_disk_without_room_is_told_with_both_numbers(tmp_path: Path) -> None:
    needed = free_bytes(tmp_path) + 10**12
    with pytest.raises(ToolError, match=r"ties p1 needs \d+\.\d\d GB in .*are free; make room"):
        require_space(tmp_path / "not" / "made", needed, "ties p1")
    require_space(tmp_path, 1, "ties p1")


def huge_model(folder: Path) -> None:
    """A model of 8 TB, all holes."""
    folder.mkdir()
    rows = 2**32
    header = json.dumps(
        {"w": {"dtype": "F16", "shape": [rows, 1000], "data_offsets": [0, rows * 2000]}}
    ).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + rows * 2000)
    (folder / "config.json").write_text('{"model_type": "llama"}')


def test_a_merge_that_the_disk_cannot_hold_does_not_start(tmp_path: Path) -> None:
    huge_model(tmp_path / "a")
    model = open_checkpoint(tmp_path / "a")
    plan = plan_gradient(
        model,
        replace(model, label="b"),
        Gradient((0.0, 1.0)),
        dtype="F16",
        shard_bytes=10**12,
        label="gradient",
    )
    with pytest.raises(ToolError, match="gradient needs"):
        build(plan, tmp_path / "out", companions={}, scratch=tmp_path / "scratch", threads=1)
    assert not (tmp_path / "out").exists()
    assert list((tmp_path / "scratch").rglob("*.safetensors")) == []


def test_a_source_that_the_disk_cannot_hold_is_not_downloaded(
    hub: HubServer, pinned: Pinned, tmp_path: Path
) -> None:
    huge_model(tmp_path / "a")
    repo = hub.add("some/huge", {"config.json": (tmp_path / "a" / "config.json").read_bytes()})
    source = pinned(repo)
    repo.files[repo.head]["model.safetensors"] = tmp_path / "a" / "model.safetensors"
    size = (tmp_path / "a" / "model.safetensors").stat().st_size
    pin = source.files["config.json"].__class__("f" * 64, size)
    huge = Source(**{**source.__dict__, "files": source.files | {"model.safetensors": pin}})
    with (
        pytest.raises(ToolError, match="fetch huge needs 17"),
        open_files(huge, root=tmp_path, scratch=tmp_path / "s", delivery=HURRY) as files,
    ):
        take_in_model(files, tmp_path / "out", scratch=tmp_path / "s", shard_bytes=10**9, threads=1)
