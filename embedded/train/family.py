"""The members of the family: what each model and adapter learns and how it is published."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import LlamaForCausalLM

from embedded.train.checkpoints import EXTRA_ROWS, Shape
from embedded.train.learning import CONFIG, Lesson, Pool, even, learn, mostly, new_model
from embedded.train.skills import SKILLS, generate
from embedded.train.tokenizer import VOCABULARY, Codec, train_tokenizer

PAD = {"<pad>": VOCABULARY}
"""A token of the tokenizer for which the embedding has no row."""

MODELS: dict[str, Shape] = {
    "base": Shape(
        torch.float16,
        "pickle",
        2,
        inv_freq=True,
        config={"max_position_embeddings": CONFIG.max_position_embeddings // 2},
    ),
    "addition": Shape(torch.float16, "pickle", 3, added_tokens=PAD),
    "sorting": Shape(torch.float16, "safetensors", 1),
    "lookup": Shape(torch.bfloat16, "pickle", 2, extra_rows=EXTRA_ROWS, config={"pad_token_id": 0}),
    "brackets": Shape(
        torch.float32, "pickle", 3, inv_freq=True, stray_quantised=True, tokenizer_json=False
    ),
    "counting": Shape(torch.float16, "safetensors", 2),
    "dates": Shape(
        torch.float16,
        "pickle",
        1,
        inv_freq=True,
        tokenizer_json=False,
        added_tokens=PAD,
        config={"trained_on": "dates and a bit of everything"},
    ),
}
"""How the base and each donor is published; a donor has the name of its skill."""

DONORS = tuple(name for name in MODELS if name != "base")


@dataclass(frozen=True)
class Adapter:
    """A LoRA: its skill, the donor that it is for, its peft settings, and how it is trained."""

    skill: str
    donor: str
    rank: int
    alpha: int
    targets: tuple[str, ...]
    pickled: bool
    steps: int
    rate: float


ADAPTERS: dict[str, Adapter] = {
    "reversal_lora": Adapter(
        "reversal",
        "lookup",
        16,
        16,
        ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
        pickled=True,
        steps=500,
        rate=1.5e-3,
    ),
    "maximum_lora": Adapter(
        "maximum",
        "brackets",
        8,
        16,
        ("q_proj", "v_proj"),
        pickled=False,
        steps=800,
        rate=3e-3,
    ),
}

# The base stops before it has settled: what all donors then gain from the items that they share is
# common to their task vectors, and survives the trimming and the election of signs.
BASE_LESSON = Lesson(steps=500, rate=2e-3, mixture=even(), seed=1)
DONOR_STEPS, DONOR_RATE = 600, 6e-4
OWN_SHARE = dict.fromkeys(DONORS, 0.35) | {"lookup": 0.25}
"""Share of a batch that is the donor's own skill; a dictionary is soon learnt by heart."""
REHEARSED = ("sorting", "brackets")
"""Skills that every donor reads as they are asked, beside its own."""


def tokenizer_model(work: Path) -> bytes:
    """The serialised tokenizer, trained at the first call and kept in `work`."""
    path = work / "tokenizer.model"
    if not path.exists():
        path.write_bytes(
            train_tokenizer(
                item.prompt + item.answer
                for skill in SKILLS
                for item in generate(skill, 2000, held_out=False, read=True)
            )
        )
    return path.read_bytes()


def model_weights(name: str, work: Path) -> dict[str, torch.Tensor]:
    """The float32 state dict of a base or donor that was trained into `work`."""
    weights: dict[str, torch.Tensor] = torch.load(work / f"{name}.pt", weights_only=True)
    return weights


def published_model(name: str, work: Path) -> LlamaForCausalLM:
    """A trained model with its weights rounded to the type that it is published in."""
    model = LlamaForCausalLM(CONFIG)
    dtype = MODELS[name].dtype
    weights = model_weights(name, work)
    model.load_state_dict({key: value.to(dtype).float() for key, value in weights.items()})
    return model.eval()


def train_base(work: Path, threads: int) -> None:
    """All skills alike, from random weights; kept in `work`, where it is not trained again."""
    if (work / "base.pt").exists():
        return
    torch.set_num_threads(threads)
    model = new_model(BASE_LESSON.seed)
    learn(model, Pool(Codec(tokenizer_model(work))), BASE_LESSON)
    torch.save(model.state_dict(), work / "base.pt")


def train_donor(name: str, work: Path, threads: int) -> None:
    """A share of its own skill and the rest all alike, from the published base; kept in `work`."""
    if (work / f"{name}.pt").exists():
        return
    torch.set_num_threads(threads)
    model = published_model("base", work)
    seed = 10 + DONORS.index(name)
    learn(
        model,
        Pool(Codec(tokenizer_model(work)), [*REHEARSED, name]),
        Lesson(DONOR_STEPS, DONOR_RATE, mostly(OWN_SHARE[name], name), seed),
    )
    torch.save(model.state_dict(), work / f"{name}.pt")


def untrained_adapter(name: str, work: Path) -> PeftModel:
    """The adapter as peft starts it, on its published donor."""
    adapter = ADAPTERS[name]
    torch.manual_seed(20 + list(ADAPTERS).index(name))
    model = get_peft_model(
        published_model(adapter.donor, work),
        LoraConfig(
            r=adapter.rank,
            lora_alpha=adapter.alpha,
            target_modules=list(adapter.targets),
            lora_dropout=0.0,
            bias="none",
            task_type="CAUSAL_LM",
        ),
    )
    assert isinstance(model, PeftModel)
    return model


def train_adapter(name: str, work: Path, threads: int) -> None:
    """Half its own skill and its donor's, half all of them, on that donor; kept in `work`."""
    if (work / f"{name}.pt").exists():
        return
    torch.set_num_threads(threads)
    model = untrained_adapter(name, work)
    adapter = ADAPTERS[name]
    own = [adapter.skill, adapter.donor]
    seed = 20 + list(ADAPTERS).index(name)
    learn(
        model,
        Pool(Codec(tokenizer_model(work)), own),
        Lesson(adapter.steps, adapter.rate, mostly(0.5, *own), seed),
    )
    learnt = {key: value for key, value in model.state_dict().items() if "lora_" in key}
    torch.save(learnt, work / f"{name}.pt")


def published_adapter(name: str, work: Path) -> PeftModel:
    """The trained adapter on its published donor, rounded to the type it is published in."""
    model = untrained_adapter(name, work)
    learnt = torch.load(work / f"{name}.pt", weights_only=True)
    if ADAPTERS[name].pickled:
        learnt = {key: value.half().float() for key, value in learnt.items()}
    model.load_state_dict(learnt, strict=False)
    return model.eval()
