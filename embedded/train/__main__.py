"""Trains the family, scores it, writes its files: `python -m embedded.train [train|scores|pins]`.

train    train everything into --work, then write sources/, evaluation/, calibration.txt and
         the table in README.md; what --work already holds is not trained again
scores   print the table for the committed sources
pins     print the digest and size of every committed file as YAML
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch

from embedded.train.checkpoints import write_adapter, write_model
from embedded.train.committed import committed_scores, replace_table, table
from embedded.train.family import (
    ADAPTERS,
    DONORS,
    MODELS,
    model_weights,
    published_adapter,
    tokenizer_model,
    train_adapter,
    train_base,
    train_donor,
)
from embedded.train.learning import HELD_OUT
from embedded.train.pins import pins
from embedded.train.skills import SKILLS, generate

HERE = Path(__file__).resolve().parent.parent
CALIBRATION_LINES = 48
"""Lines of calibration text of each skill."""


def train(work: Path, processes: int) -> None:
    """Trains what `work` lacks: the base, then donors side by side, then the adapters."""
    work.mkdir(parents=True, exist_ok=True)
    tokenizer_model(work)
    print("base", flush=True)
    train_base(work, threads=processes)
    # One thread each: the models are too small to gain from more, and two learn side by side.
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        for name, job in [(n, pool.submit(train_donor, n, work, 1)) for n in DONORS]:
            job.result()
            print(name, flush=True)
        for name, job in [(n, pool.submit(train_adapter, n, work, 1)) for n in ADAPTERS]:
            job.result()
            print(name, flush=True)


def publish(work: Path, target: Path) -> None:
    """Writes sources, held-out items and calibration text from what was trained into `work`."""
    tokenizer = tokenizer_model(work)
    for name, shape in MODELS.items():
        folder = _empty(target / "sources" / name)
        write_model(folder, model_weights(name, work), shape, tokenizer)
    for name, adapter in ADAPTERS.items():
        folder = _empty(target / "sources" / name)
        model = published_adapter(name, work)
        write_adapter(folder, model, adapter.donor, pickled=adapter.pickled)
    publish_items(target)


def publish_items(target: Path) -> None:
    """Writes `evaluation/<skill>.jsonl` (held out) and `calibration.txt` (training split)."""
    (target / "evaluation").mkdir(exist_ok=True)
    for skill in SKILLS:
        lines = [
            json.dumps({"prompt": item.prompt, "answer": item.answer})
            for item in generate(skill, HELD_OUT, held_out=True)
        ]
        _write_lines(target / "evaluation" / f"{skill}.jsonl", lines)
    per_skill = [generate(skill, CALIBRATION_LINES, held_out=False, seed=1) for skill in SKILLS]
    _write_lines(
        target / "calibration.txt",
        [item.prompt + item.answer for items in zip(*per_skill, strict=True) for item in items],
    )


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m embedded.train",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", nargs="?", choices=("train", "scores", "pins"), default="train")
    parser.add_argument("--work", type=Path, help="folder that keeps what was trained")
    parser.add_argument("--processes", type=int, default=2, help="models that learn side by side")
    arguments = parser.parse_args()
    if arguments.what == "pins":
        print(pins(HERE / "sources"), end="")
        return
    torch.set_num_threads(arguments.processes)
    if arguments.what == "train":
        with tempfile.TemporaryDirectory() as scratch:
            work = arguments.work or Path(scratch)
            train(work, arguments.processes)
            publish(work, HERE)
    scores = table(committed_scores(HERE / "sources"))
    print(scores, end="")
    if arguments.what == "train":
        replace_table(HERE / "README.md", scores)


def _empty(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    return folder


def _write_lines(path: Path, lines: list[str]) -> None:
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")


if __name__ == "__main__":
    main()
