"""Rows 110 to 115: models that crash, stop or fill the program that runs them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from remerge.cli import main
from remerge.errors import RemergeError, ToolError
from remerge.runtimes.loadable import require_loadable
from remerge.watchdog import Limits, Watched
from tests.answers import answered
from tests.faults.rows import fault
from tests.faults.samples import SAMPLES, every_sample
from tests.faults.samples.runtimes import CONFIG, gguf_file, model_folder

pytest.importorskip("xllamacpp", reason="the runtimes are an extra")
assert every_sample()
ROOT = Path(__file__).parents[2]
ASK = ("--raw", "--prompt", "aab", "--tokens", "2", "--context", "32", "--threads", "1")
SAME = "the same until the file is replaced"
SECONDS = 60.0


@fault(
    110,
    "a GGUF whose chat template never ends, fills memory, overflows a stack or is none, in "
    "`remerge chat`",
    sees="the model's answer: the template of a file is never run",
    then="the same",
)
@pytest.mark.parametrize("name", SAMPLES["gguf template"])
def test_the_template_of_a_gguf_is_never_run(
    name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    SAMPLES["gguf template"][name](tmp_path / "model.gguf")
    assert main(["chat", str(tmp_path / "model.gguf"), *ASK]) == 0
    said = capfd.readouterr()
    assert said.out.strip() and not said.err


@fault(
    111,
    "a runtime that crashes, fills memory or never ends while it loads a file",
    sees="`error: FILE: needs more memory than its limit of …`, `no progress in …` or `the runtime "
    "crashed (SIGSEGV)`: only a child process ends",
    then=SAME,
)
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("recursion", "crashed (SIGSEGV)"),
        ("nesting", "crashed (SIGSEGV)"),
        ("bomb", "needs more memory than its limit of 0.60 GB"),
        ("product", "needs more memory than its limit of 0.60 GB"),
        ("endless", "no progress in 3 s"),
    ],
)
def test_a_runtime_ends_at_its_limits_in_one_line(
    name: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    path = tmp_path / "model.gguf"
    SAMPLES["gguf template"][name](path)
    limits = Limits(memory=600_000_000, load_s=3.0 if name == "endless" else 60.0, step_s=60.0)
    target = "tests.faults.llama_with_template:serve"
    with Watched(target, {"path": str(path)}, limits, str(path)) as child:
        with pytest.raises(ToolError) as caught:
            child.ask({}, lambda _: None)
        line = str(caught.value)
    assert line.startswith(f"{path}: ") and said in line and line.isprintable()
    assert not processes_with(str(path))


@fault(
    112,
    "a GGUF with absurd counts of layers, heads, widths or tokens, or that ends early, in "
    "`remerge chat`",
    sees="`error: FILE: llama.cpp does not load it (…)`, or `the runtime crashed (…)` with what "
    "it last said",
    then=SAME,
)
@pytest.mark.parametrize("name", SAMPLES["gguf"])
def test_a_gguf_with_absurd_counts_ends_in_one_line(
    name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "model.gguf"
    SAMPLES["gguf"][name](path)
    refused_in_a_line(["chat", str(path), *ASK, "--memory", "2GB"], capfd)


def refused_in_a_line(arguments: list[str], capfd: pytest.CaptureFixture[str]) -> str:
    began = time.monotonic()
    assert main(arguments) == 1
    said = capfd.readouterr()
    line = answered(said.err)
    assert line.startswith("error: ") and line.count("\n") == 1, said.err
    assert line.strip().isprintable()
    assert time.monotonic() - began < SECONDS
    return said.err


#: What only the library itself can tell, in the tests that load it.
BY_THE_LIBRARY = {
    "more_layers": "lacks tensors of the model",
    "unknown_architecture": "no language model that transformers",
    "architecture_of_code": "code of its own is never run",
    "quantization": "",  # of a way that does not exist: nothing is unpacked
}


@fault(
    113,
    "a config.json, tokenizer or generation config with absurd, huge, negative, fractional or no "
    "numbers, another type, code, kernels or weights of another place",
    sees="`error: …/config.json: num_hidden_layers is …; the weights are 12 tensors …`: the entry "
    "and its range, before anything is loaded",
    then=SAME,
)
def test_a_config_is_held_against_the_weights_before_it_is_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model_folder(tmp_path / "sound")
    require_loadable(tmp_path / "sound")
    passed = []
    for kind in ("model config", "model tokenizer", "model folder"):
        for name, write in SAMPLES[kind].items():
            folder = tmp_path / kind.replace(" ", "-") / name
            write(folder)
            began = time.monotonic()
            try:
                require_loadable(folder)
            except RemergeError as error:
                assert str(error).startswith(str(folder)) and str(error).isprintable(), error
                assert main(["chat", str(folder), *ASK]) == 1
                assert capsys.readouterr().err == f"error: {error}\n"
            else:
                passed.append(name)
            assert time.monotonic() - began < 5, name
    harmless = ["bomb", "endless", "code", "template_bomb", "code"]
    assert passed == [*BY_THE_LIBRARY, *harmless]


@pytest.mark.parametrize(
    "changed",
    [
        {"max_window_layers": 28}, {"sliding_window": None}, {"pad_token_id": -1},
        {"rope_theta": 1e6}, {"rope_theta": 10000}, {"head_dim": None}, {"torch_dtype": "float16"},
        {"max_position_embeddings": 10_485_760}, {"auto_map": {"AutoConfig": "a.B"}},
        {"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, {"_attn_implementation": "sdpa"},
        {"eos_token_id": [1, 2]}, {"id2label": {"0": "a"}}, {"num_key_value_heads": [1, 2]},
    ],
)  # fmt: skip
def test_entries_that_genuine_configs_have_pass(changed: dict, tmp_path: Path) -> None:
    model_folder(tmp_path / "m", CONFIG | changed)
    require_loadable(tmp_path / "m")


@pytest.mark.parametrize(
    "settings",
    [
        {"model_max_length": 10**30}, {"model_max_length": int(1e30)}, {"chat_template": None},
        {"tokenizer_file": None}, {"special_tokens_map_file": "/root/.cache/x.json"},
        {"eos_token": {"content": "</s>", "lstrip": False}}, {"clean_up_tokenization_spaces": True},
        {"chat_template": [{"name": "default", "template": ""}]}, {"name_or_path": "../a"},
    ],
)  # fmt: skip
def test_settings_that_genuine_tokenizers_have_pass(settings: dict, tmp_path: Path) -> None:
    model_folder(tmp_path / "m", settings=settings)
    require_loadable(tmp_path / "m")


@fault(
    114,
    "the same files in `remerge chat` with transformers: layers that the weights lack, an unknown "
    "architecture, Python files, a tokenizer that multiplies text or tries all ways to split it",
    sees="`error: FOLDER: lacks tensors of the model that config.json describes: …` and the like; "
    "nothing that lies in the folder is run",
    then=SAME,
)
@pytest.mark.full
@pytest.mark.parametrize(
    ("kind", "name", "said"),
    [
        *(("model config", name, said) for name, said in BY_THE_LIBRARY.items()),
        ("model tokenizer", "bomb", "needs more memory than its limit"),
        ("model tokenizer", "endless", "error"),
        ("model tokenizer", "code", "error"),
        ("model tokenizer", "template_bomb", ""),
        ("model folder", "code", ""),
    ],
)
def test_transformers_runs_nothing_and_adds_nothing(
    kind: str, name: str, said: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "model"
    SAMPLES[kind][name](folder)
    ask = ["chat", str(folder), "--raw", "--tokens", "2", "--memory", "3GB"]
    status = main([*ask, "--prompt", "a" * 30])
    shown = capfd.readouterr()
    if said:
        assert status == 1 and said in shown.err and answered(shown.err).count("\n") == 1, shown.err
    else:
        assert status == 0 and shown.out.strip() and not answered(shown.err)
    assert not [path for path in tmp_path.rglob("*") if "mark" in path.name]


@pytest.fixture
def suite(tmp_path: Path) -> list[str]:
    """Options of `remerge score` for two short questions."""
    items = [{"prompt": "aab", "answer": "b"}, {"prompt": "b", "answer": "a"}]
    (tmp_path / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    task = {"kind": "skill", "data": str(tmp_path / "items.jsonl"), "metric": "exact_match"}
    task["max_new_tokens"] = 4
    params = {"eval": {"suite": "skills", "tasks": {"count": task}}}
    (tmp_path / "params.yaml").write_text(json.dumps(params))
    return ["--params", str(tmp_path / "params.yaml"), "--out", str(tmp_path / "scores")]


@fault(
    115,
    "hostile models in `remerge score`: the same configs and headers, a context of four billion "
    "tokens, for which llama.cpp would keep room",
    sees="the same lines, with no scores written",
    then=SAME,
)
@pytest.mark.full
@pytest.mark.parametrize(
    ("kind", "name"),
    [("gguf", "layers"), ("gguf", "context"), ("gguf", "no_end"), ("gguf", "no_heads"),
     ("model config", "layers"), ("model config", "more_layers"), ("model config", "no_heads"),
     ("model config", "architecture_of_code"), ("model tokenizer", "bomb"),
     ("model folder", "redirects")],
)  # fmt: skip
def test_score_ends_in_one_line(
    kind: str, name: str, suite: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / ("model.gguf" if kind == "gguf" else "model")
    SAMPLES[kind][name](path)
    assert main(["score", str(path), *suite, "--memory", "3GB"]) == 1
    said = capfd.readouterr()
    assert answered(said.err).startswith(f"error: {path}"), said.err
    assert answered(said.err).count("\n") == 1, said.err
    assert not (tmp_path / "scores").exists()


@pytest.mark.full
@pytest.mark.parametrize("name", ["endless", "recursion", "bomb"])
def test_a_template_that_score_is_asked_for_ends_in_one_line(
    name: str, suite: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "model.gguf"
    SAMPLES["gguf template"][name](path)
    assert main(["score", str(path), *suite, "--memory", "3GB", "--chat-template"]) == 1
    said = capfd.readouterr()
    assert answered(said.err).startswith(f"error: {path}: "), said.err
    assert answered(said.err).count("\n") == 1, said.err


@pytest.fixture
def talking(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A `remerge chat` that has answered once and waits for the next line."""
    path = tmp_path / "model.gguf"
    gguf_file(path)
    command = [sys.executable, "-m", "remerge.cli", "chat", str(path), "--raw", "--context", "32"]
    with subprocess.Popen(
        [*command, "--tokens", "2"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        errors="replace", start_new_session=True, cwd=ROOT,
    ) as process:  # fmt: skip
        assert process.stdin and process.stdout
        process.stdin.write("a\n")
        process.stdin.flush()
        assert process.stdout.readline()
        yield process
        process.kill()


def children_of(process: int) -> list[int]:
    found = Path(f"/proc/{process}/task/{process}/children").read_text()
    return [int(number) for number in found.split()]


def processes_with(text: str) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                if text in (entry / "cmdline").read_text():
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def gone(process: int) -> bool:
    """Whether a process ends within some seconds."""
    for _ in range(200):
        try:
            state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


def test_the_runtime_ends_with_a_killed_command(talking: subprocess.Popen[str]) -> None:
    (child,) = children_of(talking.pid)
    talking.kill()
    assert gone(child)


def test_ctrl_c_ends_command_and_runtime_in_one_line(talking: subprocess.Popen[str]) -> None:
    (child,) = children_of(talking.pid)
    os.killpg(talking.pid, signal.SIGINT)
    _, said = talking.communicate(timeout=30)
    assert (talking.returncode, answered(said).strip()) == (130, "interrupted")
    assert gone(child)


@pytest.mark.full
def test_ctrl_c_ends_score_and_its_runtime_in_one_line(suite: list[str], tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    gguf_file(path)
    command = [sys.executable, "-m", "remerge.cli", "score", str(path), *suite]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
        start_new_session=True,
    ) as process:  # fmt: skip
        while process.poll() is None and not children_of(process.pid):
            time.sleep(0.02)
        (child,) = children_of(process.pid)
        os.killpg(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    line = answered(said)
    assert line.startswith("interrupted; ") and line.count("\n") == 1, said
    assert gone(child)


def test_an_answer_comes_piece_by_piece(tmp_path: Path) -> None:
    from remerge.runtimes.chat import Settings
    from remerge.runtimes.child import open_watched

    path = tmp_path / "model.gguf"
    gguf_file(path)
    pieces: list[str] = []
    model = open_watched(path, context=32, threads=1, limits=Limits(2 * 10**9, 60.0, 60.0))
    try:
        model.say("aab", Settings(tokens=8), pieces.append)
    finally:
        model.close()
    assert len(pieces) > 1


def test_limits_are_named_and_can_be_given(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "model.gguf"
    gguf_file(path)
    said = refused_in_a_line(["chat", str(path), *ASK, "--memory", "1MB"], capfd)
    assert f"{path}: needs more memory than its limit of 1.00 MB" in said
    for given in ("--timeout=0", "--timeout=nan", "--memory=x"):
        assert main(["chat", str(path), *ASK, given]) == 1
        assert capfd.readouterr().err.startswith("error: ")
