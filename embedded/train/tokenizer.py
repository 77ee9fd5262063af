"""The SentencePiece tokenizer of the family: BPE with byte fallback, as Llama's.

Ids 0, 1, 2 are ``<unk>``, ``<s>``, ``</s>``; 3 to 258 are the bytes; pieces follow. Digits are
split, and a space is put before the first word. The end of a line is the byte ``<0x0A>``.
"""

from __future__ import annotations

import io
from collections.abc import Iterable

import sentencepiece

from embedded.train.skills import Item

VOCABULARY = 352
UNKNOWN, BEGIN, END = 0, 1, 2

CONFIG: dict[str, object] = {
    "add_bos_token": True,
    "add_eos_token": False,
    "bos_token": "<s>",
    "clean_up_tokenization_spaces": False,
    "eos_token": "</s>",
    "legacy": False,
    "model_max_length": 512,
    "pad_token": None,
    "sp_model_kwargs": {},
    "tokenizer_class": "LlamaTokenizer",
    "unk_token": "<unk>",
}
"""What `tokenizer_config.json` says, in every source."""

SPECIAL_TOKENS: dict[str, object] = {
    "bos_token": "<s>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
}
"""What `special_tokens_map.json` says, in every source."""


def train_tokenizer(lines: Iterable[str]) -> bytes:
    """The serialised `tokenizer.model` of `VOCABULARY` pieces, trained on these lines.

    One thread and a fixed order of the lines, so that the same lines give the same pieces.
    """
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        model_type="bpe",
        vocab_size=VOCABULARY,
        byte_fallback=True,
        split_digits=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        character_coverage=1.0,
        unk_id=UNKNOWN,
        bos_id=BEGIN,
        eos_id=END,
        pad_id=-1,
        num_threads=1,
        shuffle_input_sentence=False,
        minloglevel=2,
    )
    return model.getvalue()


class Codec:
    """Items to token ids and back, with the pieces of one `tokenizer.model`."""

    def __init__(self, model: bytes) -> None:
        """Takes the content of a `tokenizer.model`."""
        self._pieces = sentencepiece.SentencePieceProcessor(model_proto=model)
        # What stands before a continuation is cut off: the space that SentencePiece puts in front.
        self._lead = self._pieces.encode("\n")
        self.end_of_line: int = self._lead[-1]

    def prompt(self, item: Item, *, begin: bool = True) -> list[int]:
        """The ids of the prompt, after ``<s>`` unless `begin` is false."""
        return ([BEGIN] if begin else []) + self._pieces.encode(item.prompt)

    def answer(self, item: Item) -> list[int]:
        """The ids of the answer, its end of line and ``</s>``."""
        return [*self._pieces.encode("\n" + item.answer + "\n")[len(self._lead) :], END]

    def text(self, ids: list[int]) -> str:
        """What generated ids say up to the first end of line or ``</s>``."""
        stop = next((i for i, t in enumerate(ids) if t in (self.end_of_line, END)), len(ids))
        # A continuation that begins a word keeps its space only behind something.
        return self._pieces.decode([self.end_of_line, *ids[:stop]])[1:]
