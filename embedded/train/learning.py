"""How one model learns, and how well it answers: the training loop and exact match."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from embedded.train.skills import SKILLS, Item, generate
from embedded.train.tokenizer import BEGIN, END, VOCABULARY, Codec

POOL = 24_000
"""Training items drawn for each skill."""
HELD_OUT = 100
"""Held-out items of each skill; what `evaluation/` holds."""
LONGEST_ANSWER = 20
"""Tokens after which an answer is cut off."""
WITH_BEGIN = 0.75
"""Share of training items that begin with `<s>`: a harness may or may not add it."""

CONFIG = LlamaConfig(
    vocab_size=VOCABULARY,
    hidden_size=256,
    intermediate_size=768,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=4,
    max_position_embeddings=512,
    rms_norm_eps=1e-5,
    bos_token_id=BEGIN,
    eos_token_id=END,
    tie_word_embeddings=False,
    attn_implementation="eager",
)


@dataclass(frozen=True)
class Lesson:
    """One training run: how many steps, how fast, and the weight of each skill in a batch.

    The rate falls to nothing by a cosine.
    """

    steps: int
    rate: float
    mixture: Mapping[str, float]
    seed: int
    batch: int = 64


def even() -> dict[str, float]:
    """All skills alike."""
    return dict.fromkeys(SKILLS, 1 / len(SKILLS))


def mostly(share: float, *skills: str) -> dict[str, float]:
    """`share` of a batch from these skills alike, the rest of it from all of them."""
    return {
        name: (1 - share) * part + (share / len(skills) if name in skills else 0)
        for name, part in even().items()
    }


class Pool:
    """Encoded training items of every skill, to draw batches from."""

    def __init__(self, codec: Codec, own: Sequence[str] = ()) -> None:
        """Draws and encodes `POOL` items of each skill: what the base reads, but for `own`."""
        self._rows: dict[str, list[tuple[list[int], list[int]]]] = {
            skill: [
                (codec.prompt(item, begin=False), codec.answer(item))
                for item in generate(skill, POOL, held_out=False, read=skill not in own)
            ]
            for skill in SKILLS
        }

    def batch(
        self, draw: random.Random, size: int, mixture: Mapping[str, float]
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Two halves of a batch, the shorter and the longer rows, as ids and targets.

        Both are int64 [size / 2, longest of the half]; prompts and padding have target -100. Rows
        are padded on the right, where a causal model does not look.
        """
        skills = draw.choices(list(mixture), weights=list(mixture.values()), k=size)
        rows: list[tuple[list[int], int]] = []
        for skill in skills:
            prompt, answer = draw.choice(self._rows[skill])
            begin = [BEGIN] if draw.random() < WITH_BEGIN else []
            rows.append((begin + prompt + answer, len(begin) + len(prompt)))
        rows.sort(key=lambda row: len(row[0]))
        return [_padded(rows[: size // 2]), _padded(rows[size // 2 :])]


def _padded(rows: Sequence[tuple[list[int], int]]) -> tuple[torch.Tensor, torch.Tensor]:
    longest = max(len(ids) for ids, _ in rows)
    ids = torch.full((len(rows), longest), END, dtype=torch.int64)
    targets = torch.full((len(rows), longest), -100, dtype=torch.int64)
    for i, (line, start) in enumerate(rows):
        ids[i, : len(line)] = torch.tensor(line)
        targets[i, start : len(line)] = ids[i, start : len(line)]
    return ids, targets


def new_model(seed: int) -> LlamaForCausalLM:
    """A Llama with random weights, float32."""
    torch.manual_seed(seed)
    return LlamaForCausalLM(CONFIG)


def learn(model: nn.Module, pool: Pool, lesson: Lesson) -> float:
    """Trains the parameters that require a gradient, in place; returns the mean of the last losses.

    AdamW, with a warm-up of 20 steps. Weights are float32, the matrix
    products bfloat16.
    """
    torch.manual_seed(lesson.seed)
    draw = random.Random(lesson.seed)
    weights = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(weights, lr=lesson.rate, betas=(0.9, 0.98), weight_decay=0.01)
    model.train()
    losses: list[float] = []
    for step in range(lesson.steps):
        warm = min(1.0, (step + 1) / 20)
        fall = 0.5 * (1 + math.cos(math.pi * step / lesson.steps))
        rate = lesson.rate * warm * fall
        for group in optimiser.param_groups:
            group["lr"] = rate
        optimiser.zero_grad(set_to_none=True)
        losses.append(_backward(model, pool.batch(draw, lesson.batch, lesson.mixture)))
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
        if step % 100 == 99:
            print(f"  step {step + 1}: loss {sum(losses[-100:]) / 100:.3f}", flush=True)
    model.eval()
    return sum(losses[-20:]) / len(losses[-20:])


def _backward(model: nn.Module, halves: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> float:
    """Adds the gradient of the mean cross-entropy over all targets; returns that mean."""
    count = sum(int((targets >= 0).sum()) for _, targets in halves)
    total = 0.0
    for ids, targets in halves:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = model(input_ids=ids, use_cache=False).logits
        loss = nn.functional.cross_entropy(
            logits[:, :-1].flatten(0, 1).float(),
            targets[:, 1:].flatten(),
            ignore_index=-100,
            reduction="sum",
        )
        (loss / count).backward()
        total += loss.item() / count
    return total


@torch.no_grad()
def answers(model: nn.Module, codec: Codec, items: Sequence[Item]) -> list[str]:
    """The greedy answer of the model to each item."""
    prompts = [codec.prompt(item) for item in items]
    ends = torch.tensor([len(p) for p in prompts])
    rows = torch.full((len(items), int(ends.max()) + LONGEST_ANSWER), END, dtype=torch.int64)
    for row, prompt in zip(rows, prompts, strict=True):
        row[: len(prompt)] = torch.tensor(prompt)
    at = torch.arange(len(items))
    done = torch.zeros(len(items), dtype=torch.bool)
    for step in range(LONGEST_ANSWER):
        width = int(ends.max()) + step
        logits = model(input_ids=rows[:, :width], use_cache=False).logits
        token = logits[at, ends + step - 1].argmax(-1)
        token[done] = END
        rows[at, ends + step] = token
        done |= (token == END) | (token == codec.end_of_line)
        if bool(done.all()):
            break
    return [codec.text(row[n:].tolist()) for row, n in zip(rows, ends.tolist(), strict=True)]


def exact_match(model: nn.Module, codec: Codec) -> dict[str, float]:
    """Share of the held-out items of each skill that the model answers exactly."""
    scores: dict[str, float] = {}
    for skill in SKILLS:
        items = generate(skill, HELD_OUT, held_out=True)
        said = answers(model, codec, items)
        right = sum(a == item.answer for a, item in zip(said, items, strict=True))
        scores[skill] = right / len(items)
    return scores
