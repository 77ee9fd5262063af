"""config.json and tokenizer_config.json files that ask for code, or for more than there is."""

from __future__ import annotations

import json
from pathlib import Path

from tests.faults.samples import Write, sample

CODE = {"AutoConfig": "evil.Evil", "AutoModelForCausalLM": "evil.Evil"}


@sample("config")
def code_of_the_model(path: Path) -> None:
    """Asks for a Python file of the repository to be imported as the model."""
    path.write_text(json.dumps({"model_type": "llama", "auto_map": CODE}))


@sample("config")
def code_of_another_repository(path: Path) -> None:
    """Asks for a Python file of another repository, under its owner's control later."""
    there = {name: f"someone/else--{what}" for name, what in CODE.items()}
    path.write_text(json.dumps({"model_type": "llama", "auto_map": there}))


@sample("tokenizer")
def code_of_the_tokenizer(path: Path) -> None:
    """Asks for a Python file of the repository to be imported as the tokenizer."""
    path.write_text(json.dumps({"auto_map": {"AutoTokenizer": ["evil.Evil", None]}}))


def _endless(key: str, what: str) -> Write:
    def write(path: Path) -> None:
        path.write_text(json.dumps({"model_type": "llama", key: 10**9}))

    write.__name__, write.__doc__ = f"endless_{key}", f"Has a billion {what}, to fill memory."
    return sample("endless")(write)


for _key, _what in (
    ("num_hidden_layers", "layers"),
    ("n_layer", "layers under an older name"),
):
    _endless(_key, _what)
