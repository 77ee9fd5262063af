"""Rows 37 to 40: hostile parameters and environments."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from remerge.errors import RecipeError, RemergeError, printable
from remerge.recipes.graph import read_graph
from remerge.stages.compose import composed
from remerge.stages.params import check_params, read_params
from tests.faults.made import contents, family, left_behind, merge
from tests.faults.rows import fault
from tests.pipeline.closure import SRC
from tests.pipeline.project import clone
from tests.proof.models import llama, save

CONF = SRC.parent / "conf"
VALUES = [
    "nan",
    "inf",
    "-inf",
    "1e309",
    "-1",
    "0",
    "abc",
    "[0.3]",
    "{a: 1}",
    "null",
    "9" * 400,
    "''",
]


def params() -> dict[str, Any]:
    return yaml.safe_load((SRC.parent / "params.yaml").read_text())


@fault(
    37,
    "`-S` with NaN, infinities, 1e309, a negative, a text, a list, an unknown key, "
    "`recipe=../../x`",
    sees="`error: ties.density is nan; expected a number in (0, 1]`: the key, the value, the range",
    then="the same, until the value is one; `params.yaml` is composed again by `dvc exp run`",
)
def test_a_value_out_of_range_is_refused_by_key_before_anything_runs(tmp_path: Path) -> None:
    for value in VALUES:
        with pytest.raises(RecipeError, match=r"ties\.density|density"):
            composed([f"ties.density={value}"], CONF)
    for override in (
        "ties.lambda=inf",
        "ties.normalize=2",
        "gradient.values=[0.1,nan]",
        "recipe=../../x",
        "recipe=/etc/passwd",
        "+surprise=1",
        "ties.densty=1",
        "recipe.shard_bytes=1e9",
        "recipe.merges.p1.models.addition.weight=-1e39",
        "recipe.dtype=int8",
        "gradient.along=sideways",
    ):
        with pytest.raises(RecipeError) as caught:
            composed([override], CONF)
        assert "\n" not in str(caught.value)
    bomb = "a0: &a0 [x, x]\n" + "".join(
        f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 20)
    )
    for text in (bomb + "ties: *a19\n", "[" * 50_000, "a: \0", "- 1", "", "ties: {density: *x}"):
        (tmp_path / "params.yaml").write_text(text)
        with pytest.raises(RecipeError) as caught:
            read_params(tmp_path / "params.yaml")
        assert "\n" not in str(caught.value)


NAMES = ["a;reboot", "$(reboot)", "`reboot`", "a'b", 'a"b', "a\nb", "-rf", "--force", "a b", "a/b",
         "..", "", "a" * 65, "a|b", "a&b", "a>b", "a*b", "ä", "\x1b[2J"]  # fmt: skip


@fault(
    38,
    "a source, LoRA or format named with `;`, `$(…)`, quotes, a newline, a leading dash; an output "
    "outside of the project",
    sees="`error: recipe.merges.p1.models: name 'a;reboot' must be 1 to 64 letters, digits, …`",
    then="the same, until it has another name: `dvc exp run` composed nothing, so no shell has "
    "seen it and no output was cleared away",
)
def test_a_name_that_a_shell_could_read_otherwise_is_refused(tmp_path: Path) -> None:
    project = clone(tmp_path / "clone")
    precious = tmp_path / "precious" / "notes"
    precious.parent.mkdir()
    precious.write_text("mine")
    params_before = project.read("params.yaml")
    for hostile in (
        "recipe.merges.p1.models={x|touch seen: {model: base}}",
        "recipe.bakes={x|touch seen: {model: base, adapter: maximum_lora}}",
        "recipe.base=../precious/..",
    ):
        out = project.run("dvc", "exp", "run", "-S", hostile, expect=1)
        assert out.startswith("error: recipe.") and out.count("\n") == 1, out
        assert not (project.folder / "seen").exists() and precious.read_text() == "mine"
        assert project.read("params.yaml") == params_before
        assert (project.folder / "src" / "remerge" / "cli.py").is_file()


def test_an_edited_file_of_parameters_gives_a_shell_nothing_to_read(tmp_path: Path) -> None:
    """`params.yaml` edited by hand passes no composition; commands hold no name from it."""
    project = clone(tmp_path / "clone")
    edited = yaml.safe_load(project.read("params.yaml"))
    edited["fetch"]["a;touch seen;true"] = "models/other"
    edited["pins"]["a;touch seen;true"] = None
    (project.folder / "params.yaml").write_text(yaml.safe_dump(edited, sort_keys=False))
    out = project.run("dvc", "repro", "fetch@a;touch seen;true", expect=None)
    assert "must be 1 to 64 letters" in out and "Traceback" not in out
    assert not (project.folder / "seen").exists()


def test_every_name_is_refused_that_is_not_plain() -> None:
    for name in NAMES:
        for section in ("fetch", "pins", "bake_loras", "quantize_eval"):
            wrong = params()
            table = wrong[section]
            table[name] = next(iter(table.values()))
            with pytest.raises(RecipeError, match="must be 1 to 64"):
                check_params(wrong)
    for out in ("../x", "/etc/x", "models", "models/../../x", "models/$(x)", "models/-x", "", None):
        wrong = params()
        wrong["fetch"]["base"] = out
        with pytest.raises(RecipeError, match=r"fetch\.base"):
            check_params(wrong)


SUBNORMAL = """
import sys
from pathlib import Path
import numpy as np
if sys.argv[1] == "flush":
    import torch
    assert torch.set_flush_denormal(True)
from tests.faults.made import merge
from remerge.errors import RemergeError
try:
    base, *donors = [Path(p) for p in sys.argv[3:]]
    merge(base, donors, Path(sys.argv[2]))
except RemergeError as error:
    sys.exit(f"error: {error}")
"""


def apart(
    mode: str, out: Path, folders: list[Path], **env: str
) -> subprocess.CompletedProcess[str]:
    """Merge in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", SUBNORMAL, mode, out, *folders],
        env={**os.environ, "PYTHONPATH": f"{SRC}{os.pathsep}{SRC.parent}", **env},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )


@fault(
    39,
    "an environment that changes arithmetic: switches of numba and OpenMP, flush-to-zero set by "
    "another library",
    sees="the same bytes, or `error: NUMBA_DISABLE_JIT=1 turns off the compiler …; unset it` "
    "(tests/kernels/test_compiled.py), or `error: another library of this process has set the "
    "processor to flush subnormal numbers to zero …`",
    then="the same bytes, in an environment without it",
)
@pytest.mark.full
def test_an_environment_changes_no_byte_or_is_refused(tmp_path: Path) -> None:
    folders = []
    for seed in range(3):
        tensors = {
            name: ("F32", (values.astype("<f4") * 1e-39).astype("<f4"))
            for name, (_, values) in llama(seed, "F32").items()
        }
        folders.append(save(tmp_path / f"m{seed}", tensors))
    merge(folders[0], folders[1:], tmp_path / "here")
    here = contents(tmp_path / "here")
    environments: list[dict[str, str]] = [
        {"OMP_NUM_THREADS": "0", "MKL_CBWR": "AUTO", "NUMBA_LOOP_VECTORIZE": "0"},
        {"NUMBA_OPT": "1", "NUMBA_ENABLE_AVX": "0", "NUMBA_CPU_NAME": "generic",
         "NUMBA_CACHE_DIR": str(tmp_path / "cache")},
        {"NUMBA_FASTMATH": "1", "NUMBA_FASTMATH_DEFAULT": "1", "PYTHONOPTIMIZE": "1"},
    ]  # fmt: skip
    for number, environment in enumerate(environments):
        out = tmp_path / f"env{number}"
        result = apart("plain", out, folders, **environment)
        assert result.returncode == 0, result.stderr
        assert contents(out) == here
        shutil.rmtree(tmp_path / "scratch", ignore_errors=True)
    result = apart("flush", tmp_path / "flushed", folders)
    assert result.returncode == 1 and "Traceback" not in result.stderr
    assert "flush subnormal numbers" in result.stderr
    assert not (tmp_path / "flushed").exists() and not list(left_behind(tmp_path))


SECRET = "hf_ThisIsATokenThatNobodyMaySee"


@fault(
    40,
    "a token in the environment, a user and password in an address",
    sees="`…` in their place: `error: … http://HOST cannot be reached for …; check HF_ENDPOINT`, "
    "`execution.address is '…@HOST:PORT'`",
    then="the same",
)
def test_a_secret_stands_in_no_message_manifest_or_lock(tmp_path: Path) -> None:
    base, donors = family(tmp_path)
    pin = {"config.json": {"sha256": "0" * 64, "size": 1}}
    program = f"""
import sys
from pathlib import Path
from remerge.errors import RemergeError
from remerge.sources.delivery import Delivery
from remerge.sources.files import open_files
from remerge.sources.hub import Patience
from remerge.sources.pinned import parse_source
entry = {{"kind": "model", "repo": "some/one", "revision": "0" * 40, "files": {pin!r}}}
source = parse_source("s", entry)
for action in (
    lambda: open_files(source, root=Path(), scratch=Path("scratch"), delivery=Delivery(
        patience=Patience(attempts=1, first_wait_s=0))).all(["config.json"]),
):
    try:
        action()
    except RemergeError as error:
        print("error:", error)
from tests.faults.made import merge
merge(*map(eval, sys.argv[1:]))
"""
    for endpoint in (f"http://user:{SECRET}@127.0.0.1:9", f"http://user:{SECRET}@127.0.0.1:port"):
        out = tmp_path / f"out{endpoint[-4:].strip(':')}"
        result = subprocess.run(
            [sys.executable, "-c", program, repr(base).replace("PosixPath", "Path"),
             "[" + ", ".join(f"Path({str(d)!r})" for d in donors) + "]", f"Path({str(out)!r})"],
            env={**os.environ, "PYTHONPATH": f"{SRC}{os.pathsep}{SRC.parent}", "HF_TOKEN": SECRET,
                 "HF_ENDPOINT": endpoint, "HF_HUB_CACHE": str(tmp_path / "hub")},
            cwd=tmp_path, stdin=subprocess.DEVNULL, capture_output=True, text=True,
        )  # fmt: skip
        assert result.returncode == 0 and "error: source 's'" in result.stdout, result.stderr
        assert SECRET not in result.stdout + result.stderr
        for path in out.iterdir():
            assert SECRET.encode() not in path.read_bytes()


def test_the_committed_lock_and_params_hold_nothing_secret() -> None:
    for name in ("dvc.lock", "params.yaml"):
        path = SRC.parent / name
        if path.exists():
            assert "hf_" not in path.read_text()


@pytest.mark.parametrize(
    "typed",
    [
        f"https://user:{SECRET}@host/some/one",
        f"https://{SECRET}@host/some/one",
        f"https://user:not-a-token@host/some/one/{SECRET}",
        "u:not-a-token@host:1",
        f"a/{SECRET}",
        f"{'x' * 75}{SECRET}",
        "the token of the environment, other-hub-token",
    ],
)
def test_what_a_user_typed_is_shown_without_its_secrets(
    typed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In every place of the parameters that an error shows."""
    from remerge.cluster.connection import connected
    from remerge.cluster.settings import Execution

    monkeypatch.setenv("HF_TOKEN", "other-hub-token")
    seen = []
    for path in (
        ("execution", "address"), ("recipe", "result"), ("recipe", "dtype"), ("ties", "elect"),
        ("fetch", "base"), ("fetch", typed), ("recipe", "merges", "p1", "method"),
        ("recipe", "merges", "p1", "models"), ("recipe", typed), ("places", "base"), (typed,),
    ):  # fmt: skip
        wrong = params()
        holder = wrong
        for key in path[:-1]:
            holder = holder[key]
        holder[path[-1]] = typed
        with pytest.raises(RemergeError) as caught:
            read(wrong)
        seen.append(str(caught.value))
    for action in (
        lambda: composed([f"execution.address={typed}"], CONF),
        lambda: composed([f"recipe={typed}"], CONF),
        lambda: connected(None, Execution(address=f"{typed}:1")).__enter__(),
    ):
        with pytest.raises(RemergeError) as caught:
            action()
        seen.append(str(caught.value))
    for line in seen:
        assert "hf_" not in line and "not-a-token" not in line, line
        assert "other-hub-token" not in line, line


def read(wrong: dict[str, Any]) -> None:
    """What a stage and its composition do with parameters before they open a source."""
    read_graph(check_params(wrong).recipe, wrong["pins"])


def test_what_is_no_secret_is_shown_as_it_is() -> None:
    for text in (
        "some/one@4d963ea0", "http://host:80/a", "node one (10.0.0.1): a line", "hf_transfer",
        "sources/base.yaml: line 3", "e-mail@host",
    ):  # fmt: skip
        assert printable(text) == text
    assert len(printable("a:" * 1_000_000)) < 300
