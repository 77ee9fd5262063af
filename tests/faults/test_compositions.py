"""Rows 60 to 62: recipes from others, composed by us and by DVC."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from remerge.errors import RecipeError
from remerge.stages.compose import composed
from tests.faults.rows import fault
from tests.faults.samples import every_sample
from tests.pipeline.closure import SRC
from tests.pipeline.project import clone

CONF = SRC.parent / "conf"
SECRET = "aws_abcdefghijklmnop0123456789"
SAMPLES = every_sample()["recipe"]
OVERRIDES = [
    "recipe.title=${oc.env:SECRET}",
    "recipe.title='${oc.env:SECRET}'",
    "recipe.title=$\\{oc.env:SECRET\\}",
    "recipe.title=${oc.env:SECRET,none}",
    "recipe.title=${ oc.env : SECRET }",
    "recipe.title=${${ties.elect}:SECRET}",
    "recipe.title=${oc.decode:'${oc.env:SECRET}'}",
    "recipe.titles={a: '${oc.env:SECRET}'}",
    "recipe=${oc.env:SECRET}",
    "recipe.title=${now:%Y}",
    "recipe.title=${hydra:job.name}",
    "recipe.title=${hydra.runtime.cwd}",
    "recipe.title=${python_version:}",
    "+hydra.searchpath=[file:///etc]",
    "+hydra.job.env_copy=[SECRET]",
    "hydra/launcher=basic",
    "+ties@hydra.job=default",
    "~checked",
    "checked=true",
    "++checked=1",
]


def copied(folder: Path) -> Path:
    """The configurations, in a folder of their own."""
    project = clone(folder / "clone")
    return project.folder / "conf"


@fault(
    60,
    "a recipe or `-S` with `${oc.env:HF_TOKEN}`, `${now:}` or any resolver but our own, however it "
    "is quoted, escaped or built, in a value, a key, a choice or `defaults`; settings of Hydra "
    "itself; an option outside of `conf/`; a recipe without the check",
    sees="`error: conf/ties/x.yaml: '${oc.env:SECRET}' asks for 'oc.env', which may read this "
    "machine; …`; the value stands in no line",
    then="the same, until it is taken out: nothing was composed, `params.yaml` is as it was",
)
def test_no_composition_reads_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SECRET", SECRET)
    conf = copied(tmp_path)
    (conf.parent / "elsewhere.yaml").write_text("recipe:\n  title: other\n")
    for override in (*OVERRIDES, "recipe=../../elsewhere", f"recipe={conf.parent}/elsewhere"):
        with pytest.raises(RecipeError) as caught:
            composed([override], conf)
        assert SECRET not in str(caught.value) and str(caught.value).isprintable(), override
    for name, write in SAMPLES.items():
        path = conf / "ties" / f"{name}.yaml"
        write(path)
        with pytest.raises(RecipeError) as caught:
            composed([f"ties={name}"], conf)
        line = str(caught.value)
        assert SECRET not in line and line.isprintable(), (name, line)
        path.unlink()
    (conf / "ties" / "linked.yaml").symlink_to(conf.parent / "elsewhere.yaml")
    with pytest.raises(RecipeError, match="link out of"):
        composed([], conf)
    (conf / "ties" / "linked.yaml").unlink()
    config = conf / "config.yaml"
    config.write_text(config.read_text().replace("checked: ${checked:}", "checked: true"))
    with pytest.raises(RecipeError, match="checked"):
        composed([], conf)
    captured = capfd.readouterr()
    assert SECRET not in captured.out + captured.err


@fault(
    61,
    "the same by DVC's own composition: `dvc exp run`, `dvc exp run --queue`",
    sees="the same line and nothing else",
    then="the same; no experiment is recorded",
)
def test_no_experiment_reads_the_machine(tmp_path: Path) -> None:
    project = clone(tmp_path / "clone")
    before = project.read("params.yaml")
    for how in ((), ("--queue",)):
        for override in (OVERRIDES[0], OVERRIDES[2], OVERRIDES[8], OVERRIDES[9], OVERRIDES[13]):
            out = project.run("dvc", "exp", "run", *how, "-S", override, expect=1, SECRET=SECRET)
            assert out.startswith("error: ") and out.count("\n") == 1 and SECRET not in out, out
    for name in ("reads_a_variable", "reads_in_defaults", "bomb", "brackets"):
        path = project.folder / "conf" / "ties" / f"{name}.yaml"
        SAMPLES[name](path)
        out = project.run("dvc", "exp", "run", "-S", f"ties={name}", expect=1, SECRET=SECRET)
        assert out.startswith("error: ") and out.count("\n") == 1 and SECRET not in out, out
        path.unlink()
    assert project.read("params.yaml") == before
    listed = project.run("git", "for-each-ref", "refs/exps")
    assert not listed, listed


@fault(
    62,
    "a secret that stands in conf/ as it is, say after `dvc exp run -S conf/x.yaml:a=${oc.env:…}`, "
    "which DVC resolves itself",
    sees="`error: the parameters hold a secret of the environment; nothing is written`",
    then="the same, until it is taken out of the file",
)
def test_no_secret_of_the_environment_is_composed(tmp_path: Path) -> None:
    project = clone(tmp_path / "clone")
    before = project.read("params.yaml")
    target = "conf/gradient/stheno.yaml:name=${oc.env:AWS_SECRET_ACCESS_KEY}"
    out = project.run("dvc", "exp", "run", "-S", target, expect=1, AWS_SECRET_ACCESS_KEY=SECRET)
    assert "hold a secret" in out and SECRET not in out, out
    assert project.read("params.yaml") == before
    out = project.run(
        sys.executable,
        "-m",
        "remerge.stages.compose",
        f"recipe.title={SECRET}",
        expect=1,
        HF_TOKEN=SECRET,
    )
    assert "hold a secret" in out and SECRET not in out, out
