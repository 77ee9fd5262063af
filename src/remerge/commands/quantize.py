"""Write a model in the formats that people run: GGUF, GPTQ, legacy GGML.

  remerge quantize merged/final gguf_q4_k_m --out quants
  remerge quantize merged/final exact --out quants --prompt alpaca --name Stheno-L2-13B
  remerge quantize merged/final gptq_4bit_128g --out quants --calibration text.txt
  remerge quantize merged/final gguf_q4_0 gguf_q8_0 --out quants --measure questions.jsonl
  remerge quantize model-f16.gguf gguf_q4_k_m --out quants

Every format becomes a folder of its own in --out, with a manifest.json that says its digest, its
bits a weight and what was done to the vocabulary. `exact` stands for all formats that are the same
bytes on every machine, `all` for all. --measure compares each with the model in float64 and tells
what was lost; that takes as long as running the model on the text twice, slowly.

MODEL is a folder of a Llama, or a GGUF file of F16, BF16 or F32 weights, of any architecture, for
the gguf formats. Metadata of such a file are kept; the result is what `llama-quantize` makes of it.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from remerge.quantize.core.description import Description
    from remerge.quantize.core.format import Format


def arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the verb to argparse."""
    from remerge.quantize.formats import FORMATS

    width = max(map(len, FORMATS))
    rows = [f"  {f.name:{width}}  {f.runtime}: {f.description}" for f in FORMATS.values()]
    parser.epilog = "\n".join(["formats, and the program that is known to run each:", *rows])
    parser.add_argument("model", type=Path, metavar="MODEL", help="folder, or GGUF file")
    parser.add_argument("formats", nargs="+", metavar="FORMAT", help="formats, `exact` or `all`")
    parser.add_argument("--out", type=Path, required=True, help="folder for the formats' folders")
    parser.add_argument("--calibration", type=Path, metavar="TEXT", help="what GPTQ is fitted to")
    parser.add_argument(
        "--name", help="what the files call the model (default: the name of its folder)"
    )
    parser.add_argument(
        "--prompt",
        choices=("own", "alpaca", "raw"),
        default="own",
        help="chat template of the files: the model's own (default), Alpaca, or none",
    )
    parser.add_argument(
        "--card",
        type=Path,
        metavar="README",
        help="model card whose license, base models, tags and languages GGUF files state",
    )
    parser.add_argument(
        "--measure",
        nargs="+",
        type=Path,
        metavar="TEXT",
        help="tell perplexity, divergence and agreement on these: plain texts, or .jsonl files "
        "with a prompt and an answer a line",
    )
    parser.add_argument(
        "--threads", type=int, help="threads to use (default: all cores; changes no byte)"
    )


def run(options: argparse.Namespace) -> None:
    """Do it."""
    from remerge.locks import sole_writer
    from remerge.quantize.core.description import read_description
    from remerge.quantize.formats import choose

    chosen = choose(options.formats)
    _check(options, chosen)
    description = read_description(options.card) if options.card else None
    for form in chosen:
        with sole_writer(options.out / form.name, form.name):
            _make(options, form, description)


def _make(options: argparse.Namespace, form: Format, description: Description | None) -> None:
    """One format, which nobody else makes at the same time."""
    from remerge.quantize import quantize

    out = options.out / form.name
    _require_new(out)
    report = quantize(
        options.model,
        out,
        form.name,
        threads=options.threads,
        calibration=options.calibration,
        name=options.name or options.model.resolve().name,
        prompt=options.prompt,
        description=description,
    )
    print(f"{report.sha256}  {report.bits_per_weight:.2f} bits a weight  {out / report.file}")
    for note in report.notes:
        print(f"  {note}")
    if options.measure:
        print(f"  {_measured(options, out)}")


def _require_new(out: Path) -> None:
    from remerge.errors import RecipeError

    if out.exists():
        raise RecipeError(f"{out} exists; remove it or give another --out")


def _check(options: argparse.Namespace, chosen: tuple[Format, ...]) -> None:
    """Check what is known before the first format is written."""
    from remerge.errors import RecipeError

    if options.model.is_file():
        _check_file(options, chosen)
    for form in chosen:
        if form.container == "gptq" and options.calibration is None:
            raise RecipeError(f"{form.name} is fitted to a text: give one with --calibration")
        _require_new(options.out / form.name)
    for path in [options.calibration, *(options.measure or ())]:
        if path is not None and not path.is_file():
            raise RecipeError(f"{path}: no such text")


def _check_file(options: argparse.Namespace, chosen: tuple[Format, ...]) -> None:
    """Refuse what only a folder can be asked for."""
    from remerge.errors import RecipeError

    for option in ("name", "card", "measure"):
        if getattr(options, option) is not None:
            raise RecipeError(f"--{option} needs a folder; {options.model} is a file")
    if options.prompt != "own":
        raise RecipeError(f"--prompt needs a folder; {options.model} keeps its own template")
    for form in chosen:
        if form.container != "gguf":
            raise RecipeError(
                f"{form.name} is made of a folder of safetensors; from {options.model} only the "
                "gguf formats can be made"
            )


def _measured(options: argparse.Namespace, out: Path) -> str:
    """What `out` lost, written into its manifest and as a line."""
    from dataclasses import asdict

    from remerge.quantize.core.perplexity import measure
    from remerge.tensors.json_files import read_json, write_json

    quality = measure(options.model, out, options.measure)
    manifest = out / "manifest.json"
    write_json(manifest, {**read_json(manifest), **asdict(quality)})
    return (
        f"perplexity {quality.perplexity:.4f} (the model: {quality.reference_perplexity:.4f}), "
        f"divergence {quality.divergence:.6f} nats, same token {100 * quality.agreement:.2f} %"
    )
