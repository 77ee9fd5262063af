"""Read the committed sources back as any user would, and score them."""

from __future__ import annotations

from pathlib import Path

import torch
from peft import PeftModel
from transformers import LlamaForCausalLM, PreTrainedModel

from embedded.train.family import ADAPTERS, MODELS
from embedded.train.learning import exact_match
from embedded.train.skills import SKILLS
from embedded.train.tokenizer import Codec

BEGIN_TABLE, END_TABLE = "<!-- scores: begin -->", "<!-- scores: end -->"


def load_model(folder: Path) -> PreTrainedModel:
    """A committed model in float32, whatever its files hold."""
    model = LlamaForCausalLM.from_pretrained(
        str(folder),
        dtype=torch.float32,
        use_safetensors=(folder / "model.safetensors").exists()
        or (folder / "model.safetensors.index.json").exists(),
    )
    return model.eval()


def load_adapted(sources: Path, adapter: str) -> PeftModel:
    """A committed adapter on the donor that it was trained for."""
    donor = load_model(sources / ADAPTERS[adapter].donor)
    return PeftModel.from_pretrained(donor, str(sources / adapter)).eval()


def committed_scores(sources: Path) -> dict[str, dict[str, float]]:
    """Exact match of the base, every donor, and the two donors with their adapter."""
    codec = Codec((sources / "base" / "tokenizer.model").read_bytes())
    scores = {name: exact_match(load_model(sources / name), codec) for name in MODELS}
    for name, adapter in ADAPTERS.items():
        model = load_adapted(sources, name)
        scores[f"{adapter.donor} + {name}"] = exact_match(model, codec)
    return scores


def table(scores: dict[str, dict[str, float]]) -> str:
    """The scores as a Markdown table: one row a model, one column a skill, then the mean."""
    rows = [
        f"| model | {' | '.join(SKILLS)} | mean |",
        f"|---|{'---:|' * (len(SKILLS) + 1)}",
    ]
    for model, by_skill in scores.items():
        mean = sum(by_skill.values()) / len(by_skill)
        cells = " | ".join(f"{by_skill[skill]:.2f}" for skill in SKILLS)
        rows.append(f"| {model} | {cells} | {mean:.3f} |")
    return "\n".join(rows) + "\n"


def replace_table(readme: Path, text: str) -> None:
    """Puts a table between the two markers of the README."""
    before, rest = readme.read_text(encoding="utf-8").split(BEGIN_TABLE)
    after = rest.split(END_TABLE)[1]
    readme.write_text(f"{before}{BEGIN_TABLE}\n{text}{END_TABLE}{after}", encoding="utf-8")
