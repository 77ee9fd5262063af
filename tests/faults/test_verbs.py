"""Rows 70 to 73: every verb of the command line and every stage on inputs that are none."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from remerge.cli import VERBS, main
from remerge.stages import running
from tests.faults.made import model
from tests.faults.rows import fault
from tests.pipeline.closure import SRC

#: Arguments of each verb; X is the hostile input, O a folder to make.
ARGUMENTS: dict[str, list[list[str]]] = {
    "plan": [["X"], []],
    "pin": [["X"], ["--check", "X"]],
    "bake": [["X", "X", "--out", "O"]],
    "ties": [["X", "X", "--out", "O"]],
    "gradient": [["X", "X", "0", "1", "--out", "O"]],
    "dequantize": [["X", "--out", "O"]],
    "quantize": [["X", "gguf_q8_0", "--out", "O"]],
    "score": [["X", "--params", "X"], ["X"]],
    "id": [["X"]],
    "diff": [["X", "X"]],
    "verify": [["X"]],
    "sign": [["X", "--key", "X"]],
    "verify-signature": [["X", "--key", "X"]],
    "check": [["X"]],
    "repair": [["X"]],
    "use": [["X"]],
    "release": [["X"]],
    "chat": [["X", "--prompt", "a"]],
    "merge": [["X", "O"]],
    "compare": [[]],
    "compile": [],
    "verify-format": [["X", "--from", "X"]],
    "import": [["X"]],
    "export": [["X"]],
    "new": [["O", "--from", "X"]],
    "sync": [["X"]],
}
#: Verbs that print what is wrong with their input, as their work, and then end with status 1.
FINDS = ("check",)
FORMS = ["[" * 50_000, "{}", "[]", "1", '"a"', "null", "{\"a\": " * 3000, "\ufffe", "", "{",
         '{"format": [], "tensors": {}, "files": 1}', '{"tensors": [1], "files": {"a": null}}',
         '{"files": {"../a": {"sha256": 1}}}']  # fmt: skip
LOCKS = ["[" * 50_000, "{" * 50_000, "- " * 50_000, "a: &a [*a]", "stages: 1", "stages: [1]",
         "stages: {a: 1}", "stages: {1: {}}", "stages: {a: {outs: 1}}", "stages: {a: {outs: [1]}}",
         "stages: {a: {outs: [{path: 1}]}}", "stages: {a: {outs: [{path: merged/final, md5: 1}]}}",
         "stages: {a: {deps: {a: b}}}", "stages: {a: {params: 1}}", "\0", "", "schema: '2.0'",
         "stages: {a: {outs: [{path: x, files: 1}]}}"]  # fmt: skip


def paths(folder: Path) -> dict[str, Path]:
    """Paths and folders that are no model, by name."""
    found = {
        "long": Path("x" * 5000),
        "not_utf8": Path(os.fsdecode(b"no-\xff\xfe")),
        "null": Path("a\0b"),
        "escape": folder / "\x1b[2Jx",
        "device": Path("/dev/full"),
    }
    found["escape"].mkdir()
    for number, text in enumerate(FORMS):
        made = found[f"manifest{number}"] = folder / f"manifest{number}"
        made.mkdir()
        for name in ("manifest.json", "config.json", "adapter_config.json", "model.sig"):
            (made / name).write_text(text)
    header = found["header"] = folder / "header"
    header.mkdir()
    (header / "model.safetensors").write_bytes(b"\xff" * 64)
    (header / "config.json").write_bytes(b"\xff\xfe")
    return found


def refused(verb: str, arguments: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    """The verb ends with a status and no traceback, and shows no escape sequence."""
    try:
        status: object = main([verb, *arguments])
    except SystemExit as ended:  # argparse, with its usage
        status = ended.code
        capfd.readouterr()
        assert status == 2, (verb, arguments, "its arguments are not those of the verb")
        return
    captured = capfd.readouterr()
    assert status != 0, (verb, arguments, captured)
    lines = captured.err.splitlines()
    assert "Traceback" not in captured.err and "\x1b" not in captured.err + captured.out
    shown = captured.out.splitlines()
    assert all(line.isprintable() for line in [*lines, *shown]), (verb, arguments)
    if verb in FINDS and shown:  # what was found, and never beside an error
        assert not lines, (verb, arguments, captured)
        return
    assert [line[:7] for line in lines] == ["error: "] and not shown, (verb, arguments, captured)


@fault(
    70,
    "any verb on a path of 5,000 characters, not UTF-8, with a null byte or an escape sequence; on "
    "a device; on a folder whose manifest, configs and signature have any form but their own",
    sees="`error: …` in one line, escaped; never a traceback",
    then="the same",
)
@pytest.mark.full
def test_every_verb_refuses_what_is_no_input_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert ARGUMENTS.keys() == VERBS.keys()
    monkeypatch.chdir(tmp_path)
    found = paths(tmp_path)
    for verb, forms in ARGUMENTS.items():
        for form in forms:
            for path in found.values() if "X" in form else [Path()]:
                out = tmp_path / "out"
                refused(verb, [str(path) if a == "X" else str(out) if a == "O" else a
                               for a in form], capfd)  # fmt: skip
                assert not out.exists(), (verb, path)


@fault(
    71,
    "a `dvc.lock` of 50,000 brackets, with an alias of itself, or of any form but DVC's own",
    sees="`error: …/dvc.lock: nested more than 50 levels deep`, or which entry is not one",
    then="the same, until it is restored",
)
def test_every_form_of_a_lock_is_read_or_refused_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".dvc").mkdir()
    folder = model(tmp_path / "merged" / "final", 0)
    for text in LOCKS:
        (tmp_path / "dvc.lock").write_text(text)
        for verb, arguments in (
            ("check", [str(folder)]), ("release", [str(tmp_path / "to")]), ("verify", []),
            ("sign", [str(folder), "--key", str(tmp_path / "none")]),
        ):  # fmt: skip
            refused(verb, arguments, capfd)


def run(*arguments: str, **how: object) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "remerge.cli", *arguments],
        env={**os.environ, "PYTHONPATH": str(SRC)},
        stderr=subprocess.PIPE,
        text=True,
        timeout=120,
        **how,  # type: ignore[call-overload]
    )


@fault(
    72,
    "standard output is a full disk or closed, standard input is closed",
    sees="`error: No space left on device`, and status 1; what needs no input needs none",
    then="the same",
)
def test_streams_that_are_full_or_closed_are_a_line(tmp_path: Path) -> None:
    folder = model(tmp_path / "m", 0)
    with Path("/dev/full").open("w") as full:
        result = run("id", str(folder), stdin=subprocess.DEVNULL, stdout=full)
    assert (result.returncode, result.stderr) == (1, "error: No space left on device\n")

    def close(*streams: int) -> Callable[[], None]:
        return lambda: [os.close(stream) for stream in streams] and None

    result = run("id", str(folder), stdout=subprocess.PIPE, preexec_fn=close(0))
    assert result.returncode == 0 and not result.stderr
    result = run("id", str(folder), preexec_fn=close(1))
    assert "Traceback" not in result.stderr
    result = run("chat", str(folder), stdout=subprocess.PIPE, preexec_fn=close(0))
    assert result.returncode != 0 and "Traceback" not in result.stderr


#: By name, how each stage is started; an item is one of tiny's.
STAGES: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "fetch": ("fetch", "fetch", ("base",)),
    "bake_loras": ("bake_loras", "bake", ("lookup",)),
    "ties_p1": ("ties", "merge_part", ("p1",)),
    "gradient": ("gradient", "blend", ()),
    "quantize_eval": ("quantize_eval", "quantize_eval", ("final",)),
    "report": ("report", "report", ()),
}
_BOMB = "a0: &a0 [x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
)
PARAMS = [
    *(text.encode() for text in [*FORMS, *LOCKS, _BOMB, f"recipe: {{name: {'x' * 5000}}}"]),
    b"\xff\xfe",
    b"recipe: {base: \xff}",
]


@fault(
    73,
    "any stage on a params.yaml or dvc.lock of any form but its own: brackets, bombs, aliases of "
    "itself, no UTF-8, names of 5,000 characters",
    sees="`error: …` in one line, escaped; never a traceback",
    then="the same, until the file is restored",
)
@pytest.mark.parametrize("name", STAGES)
def test_every_stage_refuses_what_is_no_input_in_a_line(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    module, function, arguments = STAGES[name]
    stage = getattr(importlib.import_module(f"remerge.stages.{module}"), function)
    for data in PARAMS:
        Path("params.yaml").write_bytes(data)
        with pytest.raises(SystemExit) as caught:
            running.run(stage, *arguments)
        line = str(caught.value.code)
        assert line.startswith("error: ") and line.isprintable() and len(line) < 2100, (data, line)
    assert [path.name for path in tmp_path.iterdir()] == ["params.yaml"]
    Path(".dvc/tmp").mkdir(parents=True)
    for text in LOCKS:
        Path("dvc.lock").write_text(text)
        with pytest.raises(SystemExit) as caught:
            running.run(stage, *arguments)
        line = str(caught.value.code)
        assert line.startswith("error: ") and line.isprintable(), (text, line)
