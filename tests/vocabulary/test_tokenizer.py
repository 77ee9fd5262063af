"""Reading `tokenizer.model` without a tokenizer library, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st

from remerge.errors import CheckpointError
from remerge.vocabulary.tokenizer import (
    BPE,
    BYTE,
    CONTROL,
    NORMAL,
    UNKNOWN,
    parse_sentencepiece,
    read_sentencepiece,
)

MODEL = Path(__file__).resolve().parents[2] / "embedded/sources/base/tokenizer.model"


def test_the_pieces_are_those_that_the_library_reads() -> None:
    ours, theirs = read_sentencepiece(MODEL), sentencepiece.SentencePieceProcessor(str(MODEL))
    assert ours.model_type == BPE
    assert len(ours.pieces) == theirs.get_piece_size()
    for number, piece in enumerate(ours.pieces):
        assert piece.text == theirs.id_to_piece(number)
        assert piece.score == theirs.get_score(number)
        kind = UNKNOWN if theirs.is_unknown(number) else NORMAL
        kind = CONTROL if theirs.is_control(number) else kind
        kind = BYTE if theirs.is_byte(number) else kind
        assert piece.kind == kind


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"garbage, not a tokenizer",
        b"\x0a\x7f",
        b"\xff" * 12,
        b"\x0a\x04\x0a\x02\xff\xfe",
        b'{"model": {}}',
    ],
)
def test_other_bytes_are_one_clear_line(data: bytes) -> None:
    with pytest.raises(CheckpointError, match=r"^tokenizer\.model: "):
        parse_sentencepiece(data, "tokenizer.model")


@given(st.integers(0, MODEL.stat().st_size - 1), st.integers(0, 255))
def test_a_changed_byte_is_read_or_refused(position: int, value: int) -> None:
    data = bytearray(MODEL.read_bytes()[:2000])
    data[position % 2000] = value
    try:
        assert parse_sentencepiece(bytes(data), "tokenizer.model").pieces
    except CheckpointError as error:
        assert str(error).isprintable()
