"""Rows 60 to 63: recipes from others, composed by us and by DVC."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from omegaconf.resolvers import oc

from remerge.cli import main
from remerge.errors import RecipeError
from remerge.stages import composition
from remerge.stages.compose import composed
from remerge.stages.guard import forget_resolvers
from tests.answers import answered
from tests.faults.made import model
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
    config.write_text(config.read_text().replace("composed: ${derived:composed}", "composed: {}"))
    with pytest.raises(RecipeError, match="composed"):
        composed([], conf)
    captured = capfd.readouterr()
    assert SECRET not in captured.out + captured.err


#: What each sample brings about where nothing guards the composition: in the text or the error.
EFFECTS = {
    "reads_a_variable": SECRET,
    "reads_it_in_parts": SECRET,
    "reads_by_decoding": r"read: \$\{oc\.env:SECRET\}",  # for the next reader
    "reads_by_creating": SECRET[:12],  # in the error, shortened
    "reads_in_a_key": SECRET,
    "reads_in_defaults": SECRET,
    "reads_the_clock": r"read: '?20\d\d-",
    "reads_the_version": r"read: '?3\.1\d",
    "escapes": r"\$\{oc\.env:SECRET\}",
    "reads_beside": "elsewhere.yaml' is not in the subpath",  # where what was read is recorded
}


def _remember_resolvers() -> None:
    for name in ("env", "decode", "create"):
        OmegaConf.register_new_resolver(f"oc.{name}", getattr(oc, name), replace=True)


@pytest.mark.parametrize("name", EFFECTS)
def test_each_sample_would_do_what_it_says(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the guard; else its refusal would prove nothing."""
    monkeypatch.setenv("SECRET", SECRET)
    conf = tmp_path / "conf"
    shutil.copytree(CONF, conf)
    (tmp_path / "elsewhere.yaml").write_text("# @package _global_\nrecipe:\n  title: other\n")
    SAMPLES[name](conf / "ties" / f"{name}.yaml")
    for check in ("check_files", "check_overrides", "check_composed"):
        monkeypatch.setattr(composition, check, lambda *_: None)
    monkeypatch.setattr(composition, "forget_resolvers", _remember_resolvers)
    try:
        found = composed([f"ties={name}"], conf)
    except RecipeError as error:
        found = str(error)
    finally:
        forget_resolvers()
    assert re.search(EFFECTS[name], found), found


#: Hydra as anybody uses it, and YAML as it is read without bounds.
_APPLICATION = """\
import hydra
from omegaconf import OmegaConf
@hydra.main(config_path="conf", config_name="config", version_base=None)
def main(config):
    print(OmegaConf.to_yaml(config, resolve=True))
main()
"""
_YAML = "import yaml; yaml.load(open('conf/ties/x.yaml'), yaml.CSafeLoader)"
_OMEGACONF = "from omegaconf import OmegaConf; OmegaConf.load('conf/ties/x.yaml')"
_SECONDS = 5.0
_ENDLESS = ("bomb", "long", "sixties", "directives")


def _somewhere(folder: Path, name: str, text: str) -> bool:
    return any(text in path.read_text() for path in folder.rglob(name))


#: What the other samples bring about in such a program: the program, and how it shows afterwards.
#: `None` for a program that has not ended in time.
BREAKS: dict[str, tuple[str, Callable[[Path, subprocess.CompletedProcess[str] | None], bool]]] = {
    "reads_the_folder": (_APPLICATION, lambda at, ran: bool(ran) and f"read: {at}" in ran.stdout),
    "copies_the_environment": (
        _APPLICATION, lambda at, _: _somewhere(at, "hydra.yaml", f"SECRET: {SECRET}"),
    ),
    "empties_a_file": (_APPLICATION, lambda at, _: not (at / "precious").read_text()),
    "writes_elsewhere": (_APPLICATION, lambda at, _: (at.parent / "outside").is_dir()),
    "bomb": (_OMEGACONF, lambda _, ran: ran is None or ran.returncode != 0),
    "brackets": (_YAML, lambda _, ran: bool(ran) and ran.returncode == -signal.SIGSEGV),
    "itself": (_OMEGACONF, lambda _, ran: bool(ran) and "Traceback" in ran.stderr),
    "long": (_OMEGACONF, lambda _, ran: ran is None),
    "null_byte": (_OMEGACONF, lambda _, ran: bool(ran) and "Traceback" in ran.stderr),
    "sixties": (_YAML, lambda _, ran: ran is None),
    "directives": (_YAML, lambda _, ran: ran is None),
}  # fmt: skip


def test_every_sample_of_a_recipe_is_shown_to_work() -> None:
    assert EFFECTS.keys() | BREAKS.keys() == SAMPLES.keys()
    assert not EFFECTS.keys() & BREAKS.keys()


@pytest.mark.full
@pytest.mark.parametrize("name", BREAKS)
def test_each_sample_would_break_a_plain_program(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "project"
    (folder / "conf" / "ties").mkdir(parents=True)
    (folder / "conf" / "config.yaml").write_text(
        "defaults: [{ties: x}, _self_]\nrecipe: {assumptions: {}}\n"
    )
    SAMPLES[name](folder / "conf" / "ties" / "x.yaml")
    (folder / "precious").write_text("precious")
    program, shows = BREAKS[name]
    (folder / "application.py").write_text(program)
    limited = f"ulimit -v 4000000; exec {sys.executable} application.py"
    try:
        ran = subprocess.run(
            ["bash", "-c", limited], cwd=folder, env=os.environ | {"SECRET": SECRET},
            capture_output=True, text=True, timeout=_SECONDS if name in _ENDLESS
            else 120, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        ran = None
    assert shows(folder, ran), ran


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
    "`dvc exp run -S conf/x.yaml:a=${oc.env:…}`, which DVC itself resolves and writes there",
    sees="`error: -S conf/x.yaml:…: DVC writes this into the file itself, where nothing checks it; "
    "edit the file, or set the parameter (-S key=value)…`",
    then="the same; DVC has put the file back",
)
@pytest.mark.parametrize(
    ("how", "name"),
    [(["-S"], "AWS_SECRET_ACCESS_KEY"), (["--set-p"], "HARMLESS"), (["--queue", "-S"], "HARMLESS")],
)
def test_dvc_writes_nothing_into_conf_itself(tmp_path: Path, how: list[str], name: str) -> None:
    project = clone(tmp_path / "clone")
    secret = f"{SECRET}{os.getpid()}"  # which no file of the clone holds
    target = f"conf/gradient/stheno.yaml:name=${{oc.env:{name}}}"
    out = project.run("dvc", "exp", "run", *how, target, expect=1, **{name: secret})
    assert out.startswith("error: -S conf/gradient/stheno.yaml:…: DVC writes") and secret not in out
    assert out.count("\n") == 1
    assert project.run("git", "status", "--porcelain") == ""
    assert not [
        path
        for path in project.folder.rglob("*")
        if path.is_file() and not path.is_symlink() and secret.encode() in _content(path)
    ]
    assert not project.run("git", "for-each-ref", "refs/exps")


def _content(path: Path) -> bytes:
    """The bytes of a file; what a loose object of git holds."""
    data = path.read_bytes()
    if "objects" in path.parts and len(path.name) == 38:
        return zlib.decompress(data)
    return data


@fault(
    63,
    "a secret that stands in conf/ or behind `-S` as it is",
    sees="`error: the parameters hold a secret of the environment; nothing is written`",
    then="the same, until it is taken out of the file",
)
def test_no_secret_of_the_environment_is_composed(tmp_path: Path) -> None:
    project = clone(tmp_path / "clone")
    before = project.read("params.yaml")
    for command in (
        (sys.executable, "-P", "-m", "remerge.stages.compose"),
        ("dvc", "exp", "run", "-S"),
    ):
        out = project.run(*command, f"recipe.title={SECRET}", expect=1, HF_TOKEN=SECRET)
        assert "hold a secret" in out and SECRET not in out, out
        assert project.read("params.yaml") == before


@fault(
    64,
    "a mergekit file that asks for a billion layers",
    sees="`error: …: base has no layers [0, 1000000000); it has 2`, at once",
    then="the same",
)
@pytest.mark.timeout(120)
def test_a_mergekit_file_asks_for_no_more_than_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    model(tmp_path / "base", 0)
    for write in every_sample()["mergekit"].values():
        write(tmp_path / "merge.yaml")
        assert main(["merge", "merge.yaml", "out"]) == 1
        line = answered(capfd.readouterr().err)
        assert line.startswith("error: ") and line.count("\n") == 1, line
        assert "has no layers [0, 1000000000)" in line
