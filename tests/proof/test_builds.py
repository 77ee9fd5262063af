"""Two builds are compared by what lies there; the first stage that differs is named first."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from remerge import cli
from remerge.errors import CheckpointError, ToolError
from remerge.proof.builds import compare_builds
from remerge.proof.lock import in_pipeline_order, stages_needed
from remerge.proof.rebuild import described, lay, remove, repro, verify
from remerge.proof.surroundings import plain_machine, strange_machine
from remerge.quantize import quantize
from tests.proof.models import flip_bit, llama, save

ROOT = Path(__file__).parents[2]


def stage(out: str, *deps: str) -> dict:
    return {
        "cmd": f"make {out}",
        "deps": [{"path": path, "md5": "0"} for path in deps],
        "outs": [{"path": out, "md5": "0", "size": 1}],
    }


STAGES = {
    "a_report": stage("report", "merged/final/manifest.json"),
    "gradient": stage("merged/final", "merged/p1", "merged/p2"),
    "ties_p1": stage("merged/p1", "models/base"),
    "ties_p2": stage("merged/p2", "models/base"),
    "z_fetch": stage("models/base"),
}


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    root = tmp_path / "build"
    for number, name in enumerate(["models/base", "merged/p1", "merged/p2", "merged/final"]):
        save(root / name, llama(number), 20000)
    (root / "report").write_text("<html>")
    (root / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": STAGES}))
    return root


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "copy"))


def test_stages_come_after_what_they_read() -> None:
    assert list(in_pipeline_order(STAGES)) == [
        "z_fetch",
        "ties_p1",
        "ties_p2",
        "gradient",
        "a_report",
    ]


def test_a_copy_is_the_same_build(finished: Path, copy: Path) -> None:
    comparison = compare_builds(finished, copy)
    assert comparison.same
    assert described(comparison)[0].startswith("the same: 5 artefacts, ")


def test_the_first_stage_and_the_tensors_that_differ_are_named(finished: Path, copy: Path) -> None:
    (copy / "report").write_text("<HTML>")
    tensors = llama(1)
    values = tensors["model.layers.1.mlp.up_proj.weight"][1]
    values.view("<u2")[0, 0] ^= 1
    shutil.rmtree(copy / "merged/p1")
    save(copy / "merged/p1", tensors, 20000)
    comparison = compare_builds(finished, copy)
    assert [artefact.stage for artefact in comparison.differing] == ["ties_p1", "a_report"]
    lines = described(comparison)
    assert lines[0] == "merged/p1, made by ties_p1, differs first"
    tensor = "    tensor model.layers.1.mlp.up_proj.weight: 1 of 1536, at most 1 ulp"
    assert tensor in lines
    assert lines[-2:] == [
        "report, made by a_report, differs too",
        "3 of 5 artefacts are the same",
    ]


@pytest.mark.parametrize("name", ["ggml_f16", "gptq"])
def test_tensors_are_named_in_quantised_models_too(tmp_path: Path, name: str) -> None:
    out = tmp_path / "first/quantized" / name
    if name == "gptq":
        save(out, llama(1))
        (out / "manifest.json").write_text("{}")  # of such folders it records no order
    else:
        quantize(ROOT / "embedded/sources/sorting", out, name)
    lock = {"schema": "2.0", "stages": {f"quantize_eval@{name}": stage(f"quantized/{name}")}}
    (tmp_path / "first/dvc.lock").write_text(yaml.safe_dump(lock))
    shutil.copytree(tmp_path / "first", tmp_path / "second")
    (weights,) = [*(tmp_path / "second").rglob("model.*")]
    flip_bit(weights, weights.stat().st_size - 2)
    lines = described(compare_builds(tmp_path / "first", tmp_path / "second"))
    tensor = "output.weight" if name == "ggml_f16" else "lm_head.weight"
    assert any(line.startswith(f"    tensor {tensor}: 1 of") for line in lines), lines


def test_what_lies_there_counts_and_not_what_the_lock_says(finished: Path, copy: Path) -> None:
    shard = min((finished / "merged/final").glob("*.safetensors"))
    flip_bit(shard, shard.stat().st_size - 1)
    assert [artefact.path for artefact in compare_builds(finished, copy).differing] == [
        "merged/final"
    ]


def test_another_record_of_the_same_artefacts_is_said(finished: Path, copy: Path) -> None:
    changed = dict(STAGES) | {"gradient": STAGES["gradient"] | {"cmd": "other"}}
    (copy / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": changed}))
    comparison = compare_builds(finished, copy)
    assert not comparison.same
    assert described(comparison)[0] == "dvc.lock differs at gradient, but no artefact does"


def test_an_unfinished_build_is_refused(finished: Path, copy: Path) -> None:
    shutil.rmtree(copy / "merged/p2")
    with pytest.raises(CheckpointError, match="no finished build of ties_p2"):
        compare_builds(finished, copy)
    (copy / "dvc.lock").unlink()
    with pytest.raises(CheckpointError, match=r"dvc\.lock: cannot be read"):
        compare_builds(finished, copy)


@pytest.mark.parametrize("kind", ["link", "folder link", "fifo", "empty folder"])
def test_an_output_holds_regular_files_only(finished: Path, copy: Path, kind: str) -> None:
    odd = copy / "merged/final" / "odd"
    if kind == "fifo":
        os.mkfifo(odd)
    elif kind == "empty folder":
        odd.mkdir()
    else:
        odd.symlink_to(finished / ("report" if kind == "link" else "merged/p1"))
    with pytest.raises(CheckpointError, match="odd is a"):
        compare_builds(finished, copy)


def test_an_output_that_is_a_link_is_refused(finished: Path, copy: Path) -> None:
    shutil.rmtree(copy / "merged/p1")
    (copy / "merged/p1").symlink_to(finished / "merged/p1")
    with pytest.raises(CheckpointError, match="merged/p1: is a link"):
        compare_builds(finished, copy)


@pytest.mark.parametrize("path", ["/etc", "../build/merged", "merged/../../build"])
def test_a_lock_does_not_lead_out_of_its_build(finished: Path, copy: Path, path: str) -> None:
    lock = {"schema": "2.0", "stages": STAGES | {"more": stage(path)}}
    (copy / "dvc.lock").write_text(yaml.safe_dump(lock))
    with pytest.raises(CheckpointError, match="lies outside"):
        compare_builds(finished, copy)


def test_the_command_compares_two_builds(
    finished: Path, copy: Path, capsys: pytest.CaptureFixture
) -> None:
    assert cli.main(["verify", str(finished), "--against", str(copy)]) == 0
    (copy / "report").write_text("")
    assert cli.main(["verify", str(finished), "--against", str(copy)]) == 1
    assert "report, made by a_report, differs first" in capsys.readouterr().out


def run(*command: str, cwd: Path) -> None:
    variables = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT / "src"),
        "DVC_NO_ANALYTICS": "1",
    }
    author = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    command = ("git", *author, *command[1:]) if command[0] == "git" else command
    subprocess.run(command, cwd=cwd, env=variables, check=True, capture_output=True)


def project(root: Path, **reports: str) -> Path:
    """A pipeline under git: a real merge, and stages that write NAME.txt by a line of shell."""
    for number, name in enumerate(["first", "second"]):
        save(root / name, llama(number))
    blend = "python -m remerge.cli gradient first second 0 1 --out merged --scratch scratch"
    stages = {"blend": {"cmd": blend, "deps": ["first", "second"], "outs": ["merged"]}}
    for name, command in reports.items():
        stages[name] = {"cmd": command, "deps": ["merged"], "outs": [f"{name}.txt"]}
    (root / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    # The clone has no source of its own here; a project of ours has.
    (root / "src").symlink_to(ROOT / "src")
    run("git", "init", "--quiet", cwd=root)
    run("dvc", "init", "--quiet", cwd=root)
    run("dvc", "repro", "--quiet", cwd=root)
    run("git", "add", "--all", cwd=root)
    run("git", "commit", "--quiet", "-m", "built", cwd=root)
    return root


@pytest.mark.full
def test_a_build_that_depends_on_nothing_else_is_reproduced(tmp_path: Path) -> None:
    root = project(tmp_path / "project", sums="sha256sum merged/*.safetensors > sums.txt")
    lines: list[str] = []
    results = verify(root, tmp_path / "work", report=lines.append)
    assert [result.comparison.same for result in results] == [True, True]
    varied = {what for result in results for what, _ in result.surroundings.varied}
    fixed = {what for result in results for what, _ in result.surroundings.fixed}
    assert {"path", "umask", "time zone", "hash seed", "threads"} <= varied
    assert {"locale", "cores", "order of files", "user and host", "clock"} <= varied | fixed
    for result in results:
        said = [what for what, _ in (*result.surroundings.varied, *result.surroundings.fixed)]
        assert len(said) == len(set(said))
    assert not (tmp_path / "work").exists()


@pytest.mark.full
def test_every_stage_that_looks_around_is_caught(tmp_path: Path) -> None:
    leaks = {
        "zone": "date +%Z",
        "path": "pwd",
        "seed": "echo $PYTHONHASHSEED",
        "mask": "umask",
        "home": "echo $HOME",
        "cores": "nproc",
        "locale": "echo $LC_ALL",
        "clock": "date +%s",
        "user": "id -u",
    }
    commands = {name: f"{leak} > {name}.txt" for name, leak in leaks.items()}
    root = project(tmp_path / "project", **commands)
    results = verify(root, tmp_path / "work")
    caught = {a.stage for result in results for a in result.comparison.differing}
    spared = {"user"} if "user and host" in dict(results[1].surroundings.fixed) else set()
    assert caught == set(leaks) - spared
    assert "blend" not in caught
    # What differs is kept on the disk for a look, and nothing stays in memory.
    assert {path.name for path in (tmp_path / "work").iterdir()} == {
        *("kept-plain", "plain.log", "kept-strange", "strange.log")
    }
    assert (tmp_path / "work/kept-strange/seed.txt").read_text() == "4294967295\n"
    assert not list(Path("/dev/shm").glob(f"remerge-{os.getpid()}*"))


@pytest.mark.full
def test_a_rebuild_that_fails_is_kept_with_all_it_said(tmp_path: Path) -> None:
    root = project(tmp_path / "project", picky='echo Look: $TZ && test -z "$TZ" && touch picky.txt')
    with pytest.raises(ToolError, match=r"the rebuild on a plain machine failed") as caught:
        verify(root, tmp_path / "work")
    work = tmp_path / "work"
    assert f"{work}/plain.log" in str(caught.value)
    assert "Look: Asia/Kathmandu" in (work / "plain.log").read_text()
    assert (work / "kept-plain/merged/config.json").exists()
    assert {path.name for path in work.iterdir()} == {"kept-plain", "plain.log"}
    assert not list(Path("/dev/shm").glob(f"remerge-{os.getpid()}*"))
    with pytest.raises(ToolError, match=r"exists; remove it"):
        verify(root, work)
    assert (work / "kept-plain/merged/config.json").exists()


def test_an_unfinished_build_is_told_before_anything_is_rebuilt(
    finished: Path, tmp_path: Path
) -> None:
    shutil.rmtree(finished / "merged/final")
    run("git", "init", "--quiet", cwd=finished)
    run("git", "add", "dvc.lock", cwd=finished)
    run("git", "commit", "--quiet", "-m", "built", cwd=finished)
    lines: list[str] = []
    with pytest.raises(CheckpointError, match=r"merged/final: is missing.*of gradient"):
        verify(finished, tmp_path / "work", report=lines.append)
    assert lines == []
    assert not (tmp_path / "work").exists()
    # A target needs what comes before it and nothing else.
    assert stages_needed(STAGES, ["ties_p1"]) == ["ties_p1", "z_fetch"]
    assert stages_needed(STAGES, ["merged/p2"]) == ["ties_p2", "z_fetch"]


def test_what_a_rebuild_needs_to_reach_its_sources_is_passed_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = {
        "HF_TOKEN": "hf_secret",
        "HTTPS_PROXY": "http://proxy:3128",
        "no_proxy": "localhost",
        "REQUESTS_CA_BUNDLE": "/etc/bundle.pem",
    }
    for name, value in needed.items():
        monkeypatch.setenv(name, value)
    surroundings = plain_machine(tmp_path)
    script = "import json, os; print(json.dumps(dict(os.environ)))"
    (tmp_path / "home-1/tmp").mkdir(parents=True)
    surroundings.place.mkdir(parents=True)
    surroundings = replace(surroundings, prefix=(sys.executable, "-c", script))
    repro(surroundings, (), tmp_path / "log")
    seen = json.loads((tmp_path / "log").read_text())
    assert {name: seen.get(name) for name in needed} == needed
    assert "hf_secret" not in str(surroundings)


def test_the_order_of_files_is_told_as_it_is(tmp_path: Path) -> None:
    root = tmp_path / "project"
    for number in range(20):
        (root / "folder").mkdir(parents=True, exist_ok=True)
        (root / "folder" / f"{number}").write_text("")
    run("git", "init", "--quiet", cwd=root)
    run("git", "add", "--all", cwd=root)
    run("git", "commit", "--quiet", "-m", "files", cwd=root)
    laid = lay(root, strange_machine(tmp_path / "work", 0))
    try:
        here, there = ([p.name for p in (f / "folder").iterdir()] for f in (root, laid.place))
        assert ("order of files" in dict(laid.varied)) == (here != there)
        assert ("order of files" in dict(laid.fixed)) == (here == there)
    finally:
        remove(laid)


def test_what_can_be_varied_here_is(tmp_path: Path) -> None:
    """A probe that fails for a reason of our own would leave a variation out for no reason."""
    for machine in (plain_machine, lambda work: strange_machine(work, 0)):
        surroundings = machine(tmp_path / "work")
        try:
            reasons = [why for _, why in surroundings.fixed]
            assert not any("CalledProcessError" in why or "No such file" in why for why in reasons)
        finally:
            remove(surroundings)
    if len(os.sched_getaffinity(0)) > 1 and shutil.which("taskset"):
        assert "cores" in dict(plain_machine(tmp_path / "again").varied)


def test_a_foreign_locale_is_one(tmp_path: Path) -> None:
    surroundings = strange_machine(tmp_path / "work", 0)
    try:
        if "locale" in dict(surroundings.fixed):
            assert shutil.which("localedef") is None or not Path("/usr/share/i18n/locales").exists()
        else:
            script = "import locale; locale.setlocale(locale.LC_ALL, ''); "
            script += "print(locale.localeconv()['decimal_point'])"
            variables = {**os.environ, **surroundings.variables}
            shown = subprocess.run(
                [sys.executable, "-c", script], env=variables, capture_output=True, text=True
            )
            assert shown.stdout == ",\n", shown.stderr
    finally:
        remove(surroundings)


def test_changes_that_are_not_committed_are_refused(tmp_path: Path) -> None:
    run("git", "init", "--quiet", str(tmp_path), cwd=tmp_path)
    (tmp_path / "params.yaml").write_text("a: 1")
    run("git", "add", "params.yaml", cwd=tmp_path)
    with pytest.raises(ToolError, match=r"params\.yaml differs from the commit"):
        verify(tmp_path, tmp_path / "work")
