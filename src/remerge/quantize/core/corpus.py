"""Texts as token ids, by the model's own tokenizer: for calibration and for perplexity.

>>> windows = calibration_windows(folder, Path("text.txt"), rows, length=256, limit=128)
>>> passages = read_passages(folder, [Path("questions.jsonl")], rows, length=256, limit=32)

A plain text is cut into windows, each begun with the beginning-of-text token; calibration reads its
first half, perplexity its second, so that one file serves both. A `.jsonl` file holds questions,
``{"prompt": …, "answer": …}`` a line, for models that answer: each is a passage of its own, and
only the answer counts, up to the end of its line and the end-of-text token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from remerge.errors import CheckpointError, RecipeError
from remerge.files import regular_file_size
from remerge.quantize.core.vocabulary import Vocabulary, read_vocabulary
from remerge.tensors.json_files import parse_json_object

_SIZE_LIMIT = 256_000_000


@dataclass(frozen=True)
class Passage:
    """Token ids (int64 [n]) of which those from position `first` on are to be predicted."""

    ids: np.ndarray
    first: int


class Tokenizer:
    """The SentencePiece model of a folder, without any other token than its own."""

    def __init__(self, folder: Path, rows: int) -> None:
        import sentencepiece

        self.vocabulary: Vocabulary = read_vocabulary(folder, rows)
        path = folder / "tokenizer.model"
        if not path.exists():
            raise CheckpointError(
                f"{folder}: has no tokenizer.model, which calibration and measuring need; GGUF "
                "without them can be written"
            )
        try:
            self._model = sentencepiece.SentencePieceProcessor(model_file=str(path))
        except RuntimeError:
            raise CheckpointError(f"{path}: sentencepiece does not load it") from None
        self._rows = rows
        self._line = self._model.encode("\n")

    def begin(self) -> list[int]:
        """The beginning-of-text token, where there is one."""
        return [
            self.vocabulary.special[role] for role in ("bos",) if role in self.vocabulary.special
        ]

    def end(self) -> list[int]:
        """The end-of-text token, where there is one."""
        return [
            self.vocabulary.special[role] for role in ("eos",) if role in self.vocabulary.special
        ]

    def encode(self, text: str, where: Path) -> list[int]:
        """Ids of `text`; RecipeError if the model has no row for one of them."""
        ids = list(self._model.encode(text))
        if max(ids, default=0) >= self._rows:
            raise RecipeError(f"{where}: gives tokens that the embedding has no row for")
        return ids

    def encode_behind(self, text: str, where: Path) -> list[int]:
        """Ids of `text` behind other text, without the space that comes before a first word."""
        return self.encode("\n" + text, where)[len(self._line) :]


def _read(path: Path) -> str:
    if not path.exists():
        raise RecipeError(f"{path}: the text does not exist")
    if regular_file_size(path) > _SIZE_LIMIT:
        raise RecipeError(f"{path}: larger than {_SIZE_LIMIT} bytes; cut it")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise RecipeError(f"{path}: not UTF-8 text") from None


def _halves(text: str) -> tuple[str, str]:
    """A text cut at its middle line; a text of one line is both halves."""
    lines = text.splitlines(keepends=True)
    if len(lines) < 2:
        return text, text
    middle = len(lines) // 2
    return "".join(lines[:middle]), "".join(lines[middle:])


def _windows(
    tokenizer: Tokenizer, text: str, path: Path, length: int, limit: int
) -> list[np.ndarray]:
    """At most `limit` windows int64 [length]; a last shorter one only where there is no other."""
    ids, begin = tokenizer.encode(text, path), tokenizer.begin()
    if not ids:
        raise RecipeError(f"{path}: gives no tokens")
    step = length - len(begin)
    starts = range(0, min(len(ids), limit * step), step)
    windows = [np.array(begin + ids[start : start + step]) for start in starts]
    return [window for window in windows if len(window) == length] or windows[:1]


def calibration_windows(
    folder: Path, text_file: Path, rows: int, length: int, limit: int
) -> list[np.ndarray]:
    """At most `limit` windows (int64 [length]) of the first half of a plain text.

    `rows` is the number of rows of the embedding of the model in `folder`. RecipeError when the
    text is missing, not UTF-8, or gives no tokens that the model knows.
    """
    tokenizer = Tokenizer(folder, rows)
    first, _ = _halves(_read(text_file))
    return _windows(tokenizer, first, text_file, length, limit)


def _questions(tokenizer: Tokenizer, path: Path, length: int) -> list[Passage]:
    passages = []
    for number, line in enumerate(_read(path).splitlines(), 1):
        entry = parse_json_object(line.encode(), f"{path}: line {number}")
        prompt, answer = entry.get("prompt"), entry.get("answer")
        if not isinstance(prompt, str) or not isinstance(answer, str):
            raise RecipeError(f"{path}: line {number}: needs a prompt and an answer")
        asked = tokenizer.begin() + tokenizer.encode(prompt, path)
        ids = asked + tokenizer.encode_behind(answer + "\n", path) + tokenizer.end()
        if len(ids) <= length:
            passages.append(Passage(np.array(ids), len(asked)))
    return passages


def read_passages(
    folder: Path, texts: Sequence[Path], rows: int, length: int, limit: int
) -> list[Passage]:
    """Passages of at most `length` tokens from all `texts`, in order.

    From a plain text come at most `limit` windows of its second half, from a `.jsonl` file all of
    its questions that fit. RecipeError as in `calibration_windows`.
    """
    tokenizer = Tokenizer(folder, rows)
    passages: list[Passage] = []
    for path in texts:
        if path.suffix == ".jsonl":
            passages += _questions(tokenizer, path, length)
        else:
            _, second = _halves(_read(path))
            windows = _windows(tokenizer, second, path, length, limit)
            passages += [Passage(window, 1) for window in windows]
    if not any(len(passage.ids) > passage.first for passage in passages):
        raise RecipeError(f"{', '.join(map(str, texts))}: nothing in it can be predicted")
    return passages
