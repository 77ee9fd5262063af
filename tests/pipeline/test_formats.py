"""Which formats a change makes again: real DVC, real files."""

from __future__ import annotations

import pytest

from tests.pipeline.project import Project, clone, without_evaluation

pytestmark = pytest.mark.full

TWO = "quantize=[gguf_q8_0,gptq_4bit_128g]"
#: With a manifest of half a megabyte of questions this would only take longer.
UNMEASURED = "quantize.measure=false"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    made = without_evaluation(clone(tmp_path_factory.mktemp("formats") / "clone"))
    assert {"quantize_eval@gguf_q8_0", "quantize_eval@gptq_4bit_128g"} < set(
        made.experiment(TWO, UNMEASURED)
    )
    made.commit("two formats")
    return made


@pytest.fixture(autouse=True)
def as_built(project: Project) -> None:
    """Each test starts from the committed build."""
    project.run("git", "checkout", "-q", ".")
    project.run("dvc", "checkout", "-q", "--force")


def test_another_format_is_made_alone(project: Project) -> None:
    three = "quantize=[gguf_q8_0,gptq_4bit_128g,ggml_q4_0]"
    assert project.experiment(three, UNMEASURED) == [
        "quantize_eval@ggml_q4_0",
        "collect@c1",
        "report",
    ]


def test_another_calibration_text_makes_gptq_again(project: Project) -> None:
    other = "quantize.calibration=embedded/README.md"
    assert project.experiment(TWO, UNMEASURED, other) == [
        "quantize_eval@gptq_4bit_128g",
        "collect@c1",
        "report",
    ]


@pytest.mark.parametrize(
    ("file", "runs"),
    [
        ("gguf/mixture.py", ["quantize_eval@gguf_q8_0", "report"]),
        ("gptq/solver.py", ["quantize_eval@gptq_4bit_128g", "report"]),
        ("ggml/write.py", ["report"]),
        ("formats.py", ["report"]),
    ],
)
def test_a_comment_in_one_container_makes_its_formats_again(
    project: Project, file: str, runs: list[str]
) -> None:
    path = project.folder / "src" / "remerge" / "quantize" / file
    path.write_text(path.read_text() + "\n# A comment.\n")
    assert project.stages_run("repro") == runs
