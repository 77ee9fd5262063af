"""Rows 50 and 51: folders that pose as a model that somebody trusts."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from remerge.errors import RemergeError
from remerge.proof.check import check_folder
from remerge.proof.digests import identify
from tests.faults.rows import fault
from tests.faults.samples import SAMPLES, every_sample, forged

assert every_sample()


@fault(
    50,
    "a downloaded folder that is not the model on the card: header and manifest disagree, a second "
    "set of weights, links, unlisted files, a lock that records other digests",
    sees="`remerge check FOLDER --expect ID` names the file or tensor; exit status 1",
    then="the same until the right folder is fetched",
)
@pytest.mark.parametrize("name", list(SAMPLES["forged model"]))
def test_a_forged_model_never_passes(name: str, tmp_path: Path) -> None:
    expected = forged.genuine(tmp_path / "genuine")
    assert check_folder(tmp_path / "genuine", expect=expected).as_expected
    folder = tmp_path / "place" / "model"
    folder.parent.mkdir()
    SAMPLES["forged model"][name](folder)
    try:
        assert not check_folder(folder, expect=expected).as_expected
    except RemergeError as error:
        assert str(error).isprintable()


@fault(
    51,
    "a downloaded checkout with programs that are called as modules are (`dvc`, `hydra.py`), in "
    "which `remerge check` and `remerge plan` are run",
    sees="what the commands find; nothing of the checkout runs",
    then="the same",
)
def test_checking_runs_nothing_of_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    SAMPLES["forged model"]["project_with_a_program"](folder)
    remerge = str(Path(sys.executable).with_name("remerge"))
    variables = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    for command in (["check", "model"], ["id", "model"], ["plan", "tiny"], ["repair", "model"]):
        subprocess.run([remerge, *command], cwd=tmp_path, env=variables, capture_output=True)
    assert not (tmp_path / forged.MARK).exists()


def test_no_module_comes_from_the_present_folder(tmp_path: Path) -> None:
    """Of all names of the library and of packages, for the command and for `-m`."""
    forged.genuine(tmp_path / "model")
    # What Python loads for `-m` before it finds our package is beyond us; `-P` closes that too.
    loaded = "import runpy, sys; print(*{name.partition('.')[0] for name in sys.modules})"
    first = subprocess.run([sys.executable, "-P", "-c", loaded], capture_output=True, text=True)
    known = filter(str.isidentifier, packages_distributions())
    names = {*sys.stdlib_module_names, *known} - set(first.stdout.split())
    for name in names - {"remerge"}:
        program = f"open({str(tmp_path / 'ran')!r}, 'a').write({name + ' '!r})\n"
        (tmp_path / f"{name}.py").write_text(program)
    variables = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    python = [sys.executable, "-m", "remerge.cli"]
    for command in ([str(Path(sys.executable).with_name("remerge"))], python):
        done = subprocess.run(
            [*command, "id", "model"], cwd=tmp_path, env=variables, capture_output=True, text=True
        )
        assert not (tmp_path / "ran").exists(), (tmp_path / "ran").read_text()
        assert done.returncode == 0 and done.stdout.endswith("  model\n"), done


@pytest.mark.parametrize("text", ["", " ", "12", "z" * 64, "0" * 63, "0" * 65])
@pytest.mark.parametrize("verb", ["id", "check"])
def test_a_malformed_id_is_a_usage_error(verb: str, text: str, tmp_path: Path) -> None:
    from remerge.cli import main

    forged.genuine(tmp_path / "model")
    with pytest.raises(SystemExit) as caught:
        main([verb, str(tmp_path / "model"), "--expect", text])
    assert caught.value.code == 2


@pytest.mark.parametrize(
    "name", ["second_weights", "second_shards", "adapter_redirects", "link_to_a_folder", "pipe"]
)
def test_id_refuses_what_a_loader_may_read_otherwise(name: str, tmp_path: Path) -> None:
    SAMPLES["forged model"][name](tmp_path / "model")
    with pytest.raises(RemergeError):
        identify(tmp_path / "model")
