"""A small merge made by the library itself, with what the report needs around it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from remerge.evaluate.results import summarise
from remerge.evaluate.suite import suite_from_params
from remerge.methods.gradient import Gradient, plan_gradient
from remerge.methods.ties import Donor, TiesSettings, plan_ties
from remerge.quantize.core.reporting import Written, write_report
from remerge.quantize.formats import FORMATS
from remerge.report.build import Build, Scored
from remerge.shards.artefact import build as build_artefact
from remerge.tensors.checkpoint import open_checkpoint
from remerge.tensors.json_files import read_json

LAYERS = 3
KINDS = ("self_attn.q_proj", "self_attn.o_proj", "mlp.up_proj")
TASKS = ("addition", "sorting")
SCORES = {
    "base": ("base", "", 0.30, 0.10),
    "chronos": ("donor", "p1", 0.90, 0.10),
    "hermes": ("donor", "p1", 0.20, 0.70),
    "wizard": ("donor", "p2", 0.40, 0.40),
    "p1": ("part", "", 0.75, 0.60),
    "p2": ("part", "", 0.40, 0.41),
    "final": ("final", "", 0.70, 0.72),
}
PUBLISHED = {"Stheno-mini": {"addition": 70.5, "sorting": 60.0, "average": 70.9}}


def save_model(
    folder: Path, seed: int, base: dict[str, np.ndarray] | None
) -> dict[str, np.ndarray]:
    """A checkpoint with the names of a Llama: random, or a little way off `base`."""
    draw = np.random.default_rng(seed)
    names = [f"model.layers.{n}.{kind}.weight" for n in range(LAYERS) for kind in KINDS]
    names = ["model.embed_tokens.weight", *names, "model.norm.weight"]
    tensors = {}
    for name in names:
        shape = (16,) if "norm" in name else (16, 16)
        noise = draw.standard_normal(shape).astype(np.float32)
        tensors[name] = (noise if base is None else base[name] + noise * 0.01).astype(np.float16)
    folder.mkdir(parents=True)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text('{"model_type": "llama"}')
    return tensors


def recipe() -> dict[str, Any]:
    """The part of the parameters that a recipe fills."""
    place = {"density": None, "weight": 1.0, "vocabulary": None}
    unused = {"name": None, "path": "conf/recipe/unused", **place}
    pin = {"weights.bin": {"sha256": "0" * 64, "size": 1}}

    def source(repo: str, licence: str) -> dict[str, Any]:
        return {
            "kind": "model",
            "repo": repo,
            "revision": "a" * 40,
            "files": pin,
            "licence": licence,
        }

    return {
        "name": "mini",
        "title": "Stheno-mini",
        "dtype": "float16",
        "licence": "llama2",
        "base": "models/base",
        "sources": {
            "base": source("meta/base-13b", "llama2") | {"out": "models/base"},
            "chronos": source("elinas/chronos", "cc-by-nc-4.0") | {"out": "models/chronos"},
            "hermes": source("nous/hermes", "mit") | {"out": "models/hermes"},
            "wizard": source("ehartford/wizard", "llama2") | {"out": "models/wizard"},
            "limarp": {"kind": "adapter", "path": "embedded/limarp", "out": "adapters/limarp"},
        },
        "loras": {
            "hermes": {
                "model": "models/hermes",
                "adapter": "adapters/limarp",
                "out": "baked/hermes",
            }
        },
        "parts": {
            "p1": {
                "d1": {"name": "chronos", "path": "models/chronos", **place},
                "d2": {"name": "hermes", "path": "baked/hermes", **place},
                "d3": unused,
            },
            "p2": {"d1": {"name": "wizard", "path": "models/wizard", **place}, "d2": unused},
        },
        "assumptions": ["The densities: the author published none."],
    }


@pytest.fixture(scope="session")
def merged(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Manifests of p1, p2 and final."""
    root = tmp_path_factory.mktemp("merge")
    base = save_model(root / "models/base", 1, None)
    for seed, name in enumerate(("chronos", "hermes", "wizard"), 2):
        save_model(root / "models" / name, seed, base)
    common: dict[str, Any] = {"dtype": "F16", "shard_bytes": 10**9}
    write: dict[str, Any] = {"companions": {}, "scratch": root / "scratch", "threads": 1}

    def ties(part: str, *names: str) -> None:
        donors = [Donor(open_checkpoint(root / "models" / name), 0.5) for name in names]
        plan = plan_ties(open_checkpoint(root / "models/base"), donors, TiesSettings(), **common)
        build_artefact(plan, root / part, **write)

    ties("p1", "chronos", "hermes")
    ties("p2", "wizard")
    parts = open_checkpoint(root / "p1"), open_checkpoint(root / "p2")
    build_artefact(
        plan_gradient(*parts, Gradient((0.0, 0.5, 1.0)), **common), root / "final", **write
    )
    return {name: read_json(root / name / "manifest.json") for name in ("p1", "p2", "final")}


def answer(model: str, task: str, number: int) -> dict[str, Any]:
    """What a model said to a question of a task; the result is right."""
    said = f" {task} {number}" if model == "final" else f"{model} guesses"
    question, expected = f"{task} {number}?", f"{task} {number}"
    return {
        "question": question,
        "expected": expected,
        "answer": said,
        "right": said.strip() == expected,
    }


@pytest.fixture
def small_build(merged: dict[str, dict[str, Any]], tmp_path: Path) -> Build:
    """A build with scores, two formats, published scores and a LoRA."""
    task = {"kind": "skill", "metric": "exact_match"}
    suite = suite_from_params(
        {
            "suite": "skills",
            "batch_size": 1,
            "device": "cpu",
            "dtype": "float64",
            "tasks": {name: {**task, "data": f"{name}.jsonl"} for name in TASKS},
            "published": PUBLISHED,
            "tolerance": 0.6,
            "notes": ["sorting: counted in another way than it was when published"],
        }
    )
    counts = dict.fromkeys(TASKS, 100)
    scored = tuple(
        Scored(
            name,
            role,
            part,
            summarise(suite, dict(zip(TASKS, values, strict=True)), counts),
            {task: [answer(name, task, n) for n in range(3)] for task in TASKS},
        )
        for name, (role, part, *values) in SCORES.items()
    )
    formats = {}
    for name, nbytes in (("gguf_f16", 6000), ("gguf_q4_0", 2000)):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "model.gguf").write_bytes(b"x" * nbytes)
        write_report(folder, FORMATS[name], Written("model.gguf", 3000, {"F16": 11}))
        formats[name] = read_json(folder / "manifest.json")
    quality = {
        "perplexity": 5.5,
        "reference_perplexity": 5.0,
        "divergence": 0.0123,
        "agreement": 0.975,
    }
    formats["gguf_q4_0"]["quality"] = quality
    return Build(
        recipe=recipe(),
        ties={"density": 0.5, "lambda": 1.0, "normalize": True, "elect": "sum"},
        gradient={"values": [0.0, 0.5, 1.0], "along": "tensors", "blend": "all", "containing": ""},
        suite=suite,
        merges=merged,
        scored=scored,
        formats=formats,
    )


HOSTILE = "</title><script>alert(1)</script>\"'`|\n\x1b[31m\u202e| `x` [a](javascript:alert(1)) ---"


@pytest.fixture
def hostile_build(small_build: Build) -> Build:
    """The same with a hostile name wherever one can stand."""
    return with_names(small_build, lambda name: f"{name}{HOSTILE}")


def with_names(build: Build, rename: Callable[[str], str]) -> Build:
    """`build` with every name and free text of inputs passed through `rename`."""
    recipe = {
        **build.recipe,
        "title": rename("Stheno-mini"),
        "licence": rename("llama2"),
        "assumptions": [rename("one")],
        "prompt": rename("prompt"),
        "sources": {
            rename(name): {**entry, "licence": rename("mit"), "path": rename("path"), "repo": ""}
            for name, entry in build.recipe["sources"].items()
        },
    }
    merges = {
        part: {
            **manifest,
            "order": [rename(name) for name in manifest["order"]],
            "tensors": {rename(name): value for name, value in manifest["tensors"].items()},
            "notes": [[rename("model"), rename("tensor"), rename("text")]],
            "inputs": {rename("x"): {"model_id": rename("0")}},
            "parameters": {
                **manifest["parameters"],
                "donors": [
                    {**donor, "model": rename(donor["model"])}
                    for donor in manifest["parameters"].get("donors", [])
                ],
            },
        }
        for part, manifest in build.merges.items()
    }
    scored = tuple(
        replace(
            model,
            name=rename(model.name),
            answers={
                task: [
                    {key: text if key == "right" else rename(text) for key, text in each.items()}
                    for each in answers
                ]
                for task, answers in model.answers.items()
            },
        )
        for model in build.scored
    )
    formats = {
        rename(name): {**manifest, "runtime": rename("r"), "sha256": rename("f")}
        for name, manifest in build.formats.items()
    }
    return replace(build, recipe=recipe, merges=merges, scored=scored, formats=formats)
