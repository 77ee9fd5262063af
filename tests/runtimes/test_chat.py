"""`remerge chat` answers from every format; what a model says reaches no terminal as a command."""

from __future__ import annotations

import io
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remerge.cli import main
from remerge.commands.chat import harmless
from remerge.errors import RemergeError
from remerge.quantize import quantize
from remerge.runtimes.chat import Settings, open_model, until
from remerge.vocabulary.prompts import ALPACA_STOP, alpaca
from tests.answers import answered

EMBEDDED = Path(__file__).resolve().parents[2] / "embedded/sources"
QUESTION, ANSWER = "count 2 31122322=", "4"


@pytest.fixture(scope="module")
def counting() -> Path:
    """A donor of the embedded family, which counts without a mistake."""
    return EMBEDDED / "counting"


@pytest.fixture(scope="module", params=["safetensors", "gguf_q8_0", "ggml_q8_0"])
def built(
    request: pytest.FixtureRequest, counting: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    if request.param == "safetensors":
        return counting
    folder = tmp_path_factory.mktemp("formats") / request.param
    quantize(counting, folder, request.param, threads=1)
    return folder


def test_every_format_answers(built: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["chat", str(built), "--raw", "--prompt", QUESTION, "--tokens", "3"]
    assert main(command) == 0
    assert capsys.readouterr().out.strip() == ANSWER


def test_the_answer_comes_in_pieces_and_is_the_same_twice(counting: Path) -> None:
    with closing(open_model(counting, context=512, threads=1)) as model:
        heard: list[list[str]] = [[], []]
        for pieces in heard:
            model.say("sort 34 71 50 12=", Settings(tokens=6), pieces.append)
        assert len(heard[0]) > 1
        assert heard[0] == heard[1]


def test_a_seed_fixes_what_is_drawn(counting: Path) -> None:
    with closing(open_model(counting, context=512, threads=1)) as model:
        heard = []
        for seed in (1, 1, 2, 3):
            pieces: list[str] = []
            model.say("max ", Settings(tokens=12, temperature=2.0, seed=seed), pieces.append)
            heard.append("".join(pieces))
    assert heard[0] == heard[1]
    assert len(set(heard)) > 1


def test_a_conversation_takes_lines_until_an_empty_one(
    counting: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [QUESTION, "count 1 32313333=", "", "count 2 22323113="]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(lines)))
    assert main(["chat", str(counting), "--raw", "--tokens", "3"]) == 0
    assert capsys.readouterr().out.split() == ["4", "1"]


def test_a_long_conversation_forgets_its_oldest_turns(
    built: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [f"name {n} rivers, ü" for n in range(20)]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join([*lines, ""])))
    # The family was trained for 512 tokens, whatever is asked for.
    assert main(["chat", str(built), "--tokens", "30", "--context", "2048"]) == 0
    assert answered(capsys.readouterr().err) == ""


def test_a_program_in_which_nothing_was_said_ends(counting: Path, tmp_path: Path) -> None:
    quantize(counting, tmp_path / "q", "gguf_q8_0", threads=1)
    code = """
import sys
from pathlib import Path
from remerge.runtimes.chat import open_model
from remerge.cli import main
for _ in range(15):
    open_model(Path(sys.argv[1]), context=64, threads=1).close()
assert main(["chat", sys.argv[1], "--context", "64", "--prompt", "word " * 60]) == 1
sys.exit(main(["chat", sys.argv[1]]))
"""
    command = [sys.executable, "-c", code, str(tmp_path / "q")]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr


def test_an_interrupted_conversation_ends_and_promises_nothing(counting: Path) -> None:
    command = [sys.executable, "-u", "-m", "remerge.cli", "chat", str(counting), "--raw"]
    command += ["--tokens", "3"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin
        assert process.stdout
        process.stdin.write(f"{QUESTION}\n")
        process.stdin.flush()
        assert process.stdout.readline().strip() == ANSWER
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert answered(errors).strip() == "interrupted"


def test_an_answer_can_be_broken_off_in_every_format(built: Path) -> None:
    heard: list[str] = []

    def emit(piece: str) -> None:
        heard.append(piece)
        raise KeyboardInterrupt

    with closing(open_model(built, context=512, threads=1)) as model:
        with pytest.raises(KeyboardInterrupt):
            model.say("sort 34 71 50 12=", Settings(tokens=200), emit)
        assert len(heard) == 1
        model.say(QUESTION, Settings(tokens=3), heard.append)
    assert "".join(heard[1:]).strip() == ANSWER


def test_characters_that_the_vocabulary_lacks_are_tokens_of_their_bytes(
    counting: Path, tmp_path: Path
) -> None:
    quantize(counting, tmp_path / "q", "ggml_q8_0", threads=1)
    with closing(open_model(tmp_path / "q", context=128, threads=1)) as model:
        assert not model.fits("漢" * 40, 8)  # three bytes each
        assert model.fits("漢" * 30, 8)
        model.say("漢" * 30, Settings(tokens=2), lambda _: None)


def test_a_prompt_beyond_the_context_is_one_line(
    counting: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["chat", str(counting), "--prompt", "1 " * 600]) == 1
    message = answered(capsys.readouterr().err)
    assert message.startswith("error: the prompt and the answer do not fit")
    assert message.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nosuch"], "no such file or folder"),
        (["{empty}"], "neither a config.json"),
        (["{text}"], "is neither GGUF nor GGML"),
        (["{broken}"], "damaged GGUF, it claims"),
        (["{text}", "--tokens", "0"], "--tokens is 0"),
        (["{text}", "--temperature", "nan"], "--temperature is nan"),
    ],
)
def test_what_cannot_be_talked_to_is_one_line(
    arguments: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").write_text("hello")
    (tmp_path / "broken").write_bytes(b"GGUF\x03\0\0\0" + b"\xff" * 64)
    places = {name: tmp_path / name for name in ("empty", "text", "broken")}
    given_arguments = [argument.format(**places) for argument in arguments]
    assert main(["chat", *given_arguments, "--prompt", "x"]) == 1
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert message.startswith("error: ")
    assert says in message


def test_the_template_is_alpaca() -> None:
    assert alpaca(" Say yes. ") == "### Instruction:\nSay yes.\n\n### Response:\n"
    assert alpaca("b", "earlier\n").startswith("earlier\n\n### Instruction:\nb")


def test_braces_in_an_instruction_stay() -> None:
    assert "{x} {instruction}" in alpaca("{x} {instruction}")


def test_control_characters_are_shown_and_not_sent() -> None:
    assert harmless("a\x1b[2Jb\u202e\r\n\tc") == "a\\x1b[2Jb\\u202e\\r\n\tc"


@given(text=st.text())
def test_nothing_that_a_terminal_obeys_gets_through(text: str) -> None:
    assert all(c.isprintable() or c in "\n\t" for c in harmless(text))


def test_an_answer_ends_where_the_model_begins_to_ask() -> None:
    pieces = iter(["Yes.", "\n### Instr", "uction:", "\nmore"])
    assert "".join(until(pieces, (ALPACA_STOP,))) == "Yes."


def test_what_looks_like_an_end_and_is_none_is_told() -> None:
    pieces = iter(["a\n###", " b", "\n"])
    assert "".join(until(pieces, (ALPACA_STOP,))) == "a\n### b\n"


@given(text=st.text("ab#\n", max_size=40), cuts=st.lists(st.integers(0, 40), max_size=6))
def test_pieces_make_no_difference_to_the_end(text: str, cuts: list[int]) -> None:
    def pieces() -> Iterator[str]:
        places = [0, *sorted(cuts), len(text)]
        for begin, end in pairwise(places):
            yield text[begin:end]

    stops = ("##", "\na")
    ends = [place for stop in stops if (place := text.find(stop)) >= 0]
    assert "".join(until(pieces(), stops)) == text[: min(ends, default=len(text))]


def test_errors_of_the_room_are_the_projects_own() -> None:
    with pytest.raises(RemergeError):
        open_model(Path("/nonexistent"), context=8)
