"""Rows 74, 94, 95 and 117: the stages of the pipeline as the processes that DVC starts."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from remerge.proof.check import check_folder
from tests.answers import answered
from tests.faults.conftest import Built
from tests.faults.rows import fault
from tests.faults.samples import SAMPLES, every_sample
from tests.pipeline.closure import SRC
from tests.pipeline.project import Project, clone

assert every_sample()
#: Every stage as dvc.yaml or a person starts it, with an item of tiny's where it has items.
STAGES: dict[str, tuple[str, ...]] = {
    "fetch": ("base",),
    "bake_loras": ("lookup",),
    "ties_p1": (),
    "ties_p2": (),
    "gradient": (),
    "quantize_eval": ("score_base",),
    "report": (),
    "source": ("base",),
    "node": ("final",),
    "compose": ("--print",),
}
_QUICK = ("fetch",)


@pytest.fixture(scope="module")
def cloned(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A clone in which nothing has been built."""
    return clone(tmp_path_factory.mktemp("stages") / "clone")


def stage(
    folder: Path, name: str, *arguments: str, **how: object
) -> subprocess.CompletedProcess[str]:
    """One stage in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", f"remerge.stages.{name}", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(SRC)},
        stderr=subprocess.PIPE,
        text=True,
        timeout=180,
        check=False,
        **how,  # type: ignore[call-overload]
    )


def close(*streams: int) -> Callable[[], None]:
    """What closes standard streams in a child before the program starts."""
    return lambda: [os.close(stream) for stream in streams] and None


@fault(
    74,
    "a stage whose standard input, output or error is closed, or whose output is a full disk",
    sees="its result, or its one line of error: nothing that is printed lands in a file of the "
    "model",
    then="the same",
)
@pytest.mark.parametrize("name", [
    pytest.param(name, marks=[] if name in _QUICK else pytest.mark.full) for name in STAGES
])  # fmt: skip
def test_a_stage_minds_no_stream_that_is_closed_or_full(name: str, tmp_path: Path) -> None:
    for streams in ((0,), (1,), (0, 1), (2,), (0, 1, 2)):
        result = stage(tmp_path, name, *STAGES[name], preexec_fn=close(*streams))
        assert result.returncode == 1, (streams, result)
        if 2 not in streams:
            line = answered(result.stderr)
            assert line.startswith("error: ") and line.count("\n") == 1, (streams, line)
    with Path("/dev/full").open("w") as full:
        result = stage(tmp_path, name, *STAGES[name], stdin=subprocess.DEVNULL, stdout=full)
    line = answered(result.stderr)
    assert result.returncode == 1 and line.startswith("error: ") and line.count("\n") == 1, line
    assert not list(tmp_path.iterdir())


def test_a_stage_that_works_is_not_disturbed_by_closed_streams(cloned: Project) -> None:
    for streams in ((0, 1), (0, 1, 2)):
        result = stage(cloned.folder, "fetch", "base", preexec_fn=close(*streams))
        assert result.returncode == 0, result
        assert not check_folder(cloned.folder / "models" / "base").problems
        shutil.rmtree(cloned.folder / "models" / "base")
    with Path("/dev/full").open("w") as full:
        result = stage(cloned.folder, "fetch", "base", stdout=full)
    assert (result.returncode, result.stderr) == (1, "error: No space left on device\n")
    with Path("/dev/full").open("w") as full:
        result = stage(cloned.folder, "compose", "--print", stdout=full)
    assert (result.returncode, answered(result.stderr)) == (1, "error: No space left on device\n")


@fault(
    94,
    "a stage started twice for one item, at the same time",
    sees="from one of them `error: fetch base: another process is writing …; wait until it ends, "
    "or choose another place`, or that the result exists",
    then="nothing to do: the other one's result is whole",
)
@pytest.mark.parametrize(("name", "item", "out"), [
    ("fetch", "base", "models/base"),
    pytest.param("quantize_eval", "gguf_f16", "quantized/gguf_f16", marks=pytest.mark.full),
    pytest.param("quantize_eval", "score_final", "scores/final", marks=pytest.mark.full),
])  # fmt: skip
def test_of_two_processes_of_one_item_one_wins(
    name: str, item: str, out: str, cloned: Project
) -> None:
    folder, place = cloned.folder, cloned.folder / out
    shutil.rmtree(place, ignore_errors=True)
    if name == "quantize_eval":
        stage_inputs(folder)
    command = [sys.executable, "-m", f"remerge.stages.{name}", item]
    both = [
        subprocess.Popen(
            command, cwd=folder, env={**os.environ, "PYTHONPATH": str(SRC)},
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )
        for _ in range(2)
    ]  # fmt: skip
    said = [process.communicate(timeout=300)[1] for process in both]
    statuses = [process.returncode for process in both]
    assert 0 in statuses, said
    for status, text in zip(statuses, said, strict=True):
        line = answered(text)
        if status:
            assert line.startswith("error: ") and line.count("\n") == 1, line
            assert "another process is writing" in line or "exists" in line, line
    if name == "fetch":
        assert not check_folder(place).problems
    assert list(place.iterdir()) and not list(folder.rglob("*.partial"))
    assert not list(folder.rglob(".*.lock"))
    first = {path.name: path.read_bytes() for path in place.iterdir()}
    shutil.rmtree(place)
    assert stage(folder, name, item, stdout=subprocess.DEVNULL).returncode == 0
    assert first == {path.name: path.read_bytes() for path in place.iterdir()}


def stage_inputs(folder: Path) -> None:
    """Fetch a model of the recipe, in the place of the one that would be merged."""
    if not (folder / "merged" / "final").exists():
        if not (folder / "models" / "base").exists():
            assert stage(folder, "fetch", "base", stdout=subprocess.DEVNULL).returncode == 0
        shutil.copytree(folder / "models" / "base", folder / "merged" / "final")


@fault(
    95,
    "two `dvc repro` in one checkout at the same time",
    sees="from one of them DVC's own error: the repository is locked by another process",
    then="nothing to do: the outputs and `dvc.lock` are those of a build alone",
)
@pytest.mark.full
def test_of_two_builds_in_one_checkout_one_wins(built: Built) -> None:
    for name in ("merged", "quantized"):
        shutil.rmtree(built.folder / name)
    built.project.run("dvc", "gc", "-w", "-f", expect=None)
    both = [built.start("dvc", "repro", "--force", "--no-run-cache") for _ in range(2)]
    said = [process.communicate(timeout=900)[0] for process in both]
    statuses = [process.returncode for process in both]
    assert 0 in statuses, said
    for status, text in zip(statuses, said, strict=True):
        assert "Traceback" not in text, text
        if status:
            assert "lock" in text or "busy" in text or "another process" in text, text
    assert built.read_lock() == built.lock
    assert not built.project.stages_run("repro")
    for place in ("merged/final", "quantized/gguf_f16"):
        assert not check_folder(built.folder / place).problems
    assert not list(built.folder.rglob("*.partial"))


#: Models that would crash, fill or stop whatever scores them, and what is said of each.
HOSTILE = [
    ("model config", "layers", "num_hidden_layers is"),
    ("model config", "more_layers", "lacks tensors of the model"),
    ("model tokenizer", "bomb", "needs more memory than its limit of 2.50 GB"),
    ("model folder", "redirects", "adapter_config.json makes loaders read another base"),
    ("gguf", "heads", ""),
    ("gguf table", "sparse_list", "damaged GGUF"),
]


@fault(
    117,
    "a hostile model in the pipeline: an item of `quantize_eval` that scores a donor whose config, "
    "tokenizer or table is absurd",
    sees="`error: models/base: needs more memory than its limit of …; the file is hostile, or "
    "allow more with -S +execution.score_memory=BYTES` and the like: the stage scores in a child, "
    "as `remerge score` does",
    then="the same until the source is dropped",
)
@pytest.mark.full
@pytest.mark.parametrize(("kind", "name", "said"), HOSTILE)
def test_a_hostile_model_in_the_pipeline_ends_in_one_line(
    kind: str, name: str, said: str, cloned: Project
) -> None:
    limit = "+execution.score_memory=2500000000"
    cloned.run(sys.executable, "-P", "-m", "remerge.stages.compose", limit)
    model = cloned.folder / "models" / "base"
    shutil.rmtree(model, ignore_errors=True)
    if kind.startswith("gguf"):
        model.mkdir(parents=True)
        SAMPLES[kind][name](model / "model.gguf")
    else:
        SAMPLES[kind][name](model)
    result = stage(cloned.folder, "quantize_eval", "score_base", stdout=subprocess.DEVNULL)
    line = answered(result.stderr)
    assert result.returncode == 1 and line.startswith("error: models/base"), line
    assert line.count("\n") == 1 and said in line, line
    assert not (cloned.folder / "scores" / "base").exists()
    shutil.rmtree(model)
