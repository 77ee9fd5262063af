"""What a change runs again, and that no donor of another recipe is ever merged: real DVC."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.pipeline.project import Project, clone, without_evaluation

pytestmark = pytest.mark.full

#: DVC remembers no run of a stage with a file that git tracks and that is no metric: results.json.
REPORT = ["report"]
MERGES = ["ties_p1", "ties_p2", "gradient", "report"]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    made = without_evaluation(clone(tmp_path_factory.mktemp("experiments") / "clone"))
    made.run("dvc", "repro")
    made.commit("built")
    return made


@pytest.fixture(autouse=True)
def as_built(project: Project) -> None:
    """Each test starts from the committed build."""
    project.run("git", "checkout", "-q", ".")
    project.run("git", "clean", "-fdq")
    project.run("dvc", "checkout", "-q", "--force")


def donors(project: Project, part: str) -> list[str]:
    manifest = json.loads(project.read(f"merged/{part}/manifest.json"))
    return [donor["model"] for donor in manifest["parameters"]["donors"]]


def test_nothing_runs_twice(project: Project) -> None:
    assert project.stages_run("repro") == []


def test_a_density_reruns_both_ties_and_what_follows(project: Project) -> None:
    assert project.experiment("ties.density=0.6") == MERGES
    assert project.experiment("ties.density=0.6") == []


def test_the_gradient_reruns_itself(project: Project) -> None:
    assert project.experiment("gradient=inverted") == ["gradient", "report"]


def test_a_donor_weight_or_density_reruns_its_own_part(project: Project) -> None:
    assert project.experiment("recipe.merges.p1.models.sorting.weight=0.5") == [
        "ties_p1",
        "gradient",
        "report",
    ]
    assert project.experiment("recipe.merges.p2.models.brackets.density=0.7") == [
        "ties_p2",
        "gradient",
        "report",
    ]


def test_a_source_is_fetched_alone(project: Project) -> None:
    pins = project.folder / "conf" / "pins" / "tiny.yaml"
    text = pins.read_text()
    head, rest = text.split("  lookup:\n", 1)
    pins.write_text(f"{head}  lookup:\n{rest.replace('CC0-1.0', 'MIT', 1)}")
    assert project.experiment() == ["report"]  # a licence decides no byte
    pins.write_text(f"{head}  lookup:\n    config: {{max_position_embeddings: 256}}\n{rest}")
    ran = project.experiment()
    assert ran[:1] == ["fetch@lookup"]
    assert not any(stage.startswith("fetch@") for stage in ran[1:])


def test_recipes_switch_back_and_forth_without_a_stale_donor(project: Project) -> None:
    lock, final = project.read("dvc.lock"), project.read("merged/final/manifest.json")
    assert {"ties_p1", "ties_p2"} < set(project.experiment("recipe=tiny_2x4", "quantize=none"))
    assert donors(project, "p1") == ["addition", "sorting"]
    assert donors(project, "p2") == ["lookup", "brackets", "counting", "dates"]
    assert project.experiment() == REPORT
    assert project.read("merged/final/manifest.json") == final
    assert donors(project, "p1") == ["addition", "sorting", "lookup"]
    (project.folder / "dvc.lock").unlink()
    project.run("dvc", "repro")
    assert project.read("dvc.lock") == lock


def test_a_dropped_donor_leaves_the_merge_and_comes_back(project: Project) -> None:
    before = project.read("merged/p1/manifest.json")
    assert project.experiment("~recipe.merges.p1.models.sorting") == [
        "ties_p1",
        "gradient",
        "report",
    ]
    assert donors(project, "p1") == ["addition", "lookup"]
    assert project.experiment() == REPORT
    assert project.read("merged/p1/manifest.json") == before


def test_a_dropped_donor_takes_its_score_along(project: Project) -> None:
    scored = ["recipe.score=all", "eval.limit=2"]
    project.experiment(*scored)
    assert "sorting" in json.loads(project.read("results.json"))["scores"]
    ran = project.experiment(*scored, "~recipe.merges.p1.models.sorting")
    assert "quantize_eval@score_sorting" not in ran and ran[-1] == "report"
    assert "sorting" not in json.loads(project.read("results.json"))["scores"]


def test_a_queued_sweep_runs_two_at_a_time_and_shares_what_came_before(project: Project) -> None:
    one_thread = {"REMERGE_THREADS": "1"}
    densities = ("0.23", "0.47", "0.61")  # which no other test has run: DVC would remember
    sweep = f"ties.density={','.join(densities)}"
    project.run("dvc", "exp", "run", "--queue", "-S", sweep, **one_thread)
    # Its workers live on and keep what they inherit, so there must be nobody at its other end.
    subprocess.run(
        ["dvc", "queue", "start", "-j", "2"],
        cwd=project.folder,
        env=project.environment() | one_thread,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=True,
    )
    most, states = 0, {"Queued": 3}
    while "Queued" in states or "Running" in states:
        time.sleep(1)
        status = project.run("dvc", "queue", "status")
        words = ("Queued", "Running", "Success", "Failed")
        rows = [line.split() for line in status.splitlines()]
        states = Counter(word for row in rows for word in row if word in words)
        most = max(most, states["Running"])
    assert states == {"Success": 3}, status
    assert most == 2
    for row in rows:
        if "Success" in row:
            told = project.run("dvc", "queue", "logs", row[0])
            assert re.findall(r"Running stage '([^']+)'", told) == MERGES, told
    text = json.dumps(json.loads(project.run("dvc", "exp", "show", "--json", "-n", "1")))
    for density in densities:
        assert f'"density": {density}' in text


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("ties.density=7", "ties.density is 7; expected a number in (0, 1]"),
        ("gradient.values=[0.5]", "gradient.values: expected at least two numbers"),
        ("nosuch.key=1", "unknown key 'nosuch'"),
        ("ties.densty=0.5", "did you mean 'density'?"),
        ("quantize=[]", "quantize=[] names no format"),
        ("quantize=[gguf_q4_k_mm]", "did you mean 'gguf_q4_k_m'?"),
        ("~recipe.merges.p1.models.sortin", "did you mean 'sorting'?"),
        ("recipe.merges.p1.models.adition.weight=1", "did you mean 'addition'?"),
    ],
)
def test_a_wrong_parameter_is_one_line_with_the_nearest_name(
    project: Project, override: str, says: str
) -> None:
    out = project.run("dvc", "exp", "run", "-S", override, expect=1)
    assert out.startswith("error: ") and out.count("\n") == 1, out
    assert says in out


@pytest.mark.parametrize(
    "environment",
    [
        {"NUMBA_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
        {
            "LC_ALL": "C",
            "TZ": "Pacific/Chatham",
            "PYTHONHASHSEED": "99",
            "NUMBA_CPU_NAME": "generic",
        },
    ],
)
def test_the_lock_is_the_same_in_another_environment(
    project: Project, environment: dict[str, str], tmp_path: Path
) -> None:
    elsewhere = without_evaluation(clone(tmp_path / "some where else"))
    elsewhere.run("sh", "-c", "umask 077 && dvc repro", **environment)
    assert elsewhere.read("dvc.lock") == project.read("dvc.lock")
