"""The whole of the parameters, checked while they are composed.

A stage checks what it uses (`stages.params`). But before a stage can refuse anything, DVC has
deleted its outputs and the stages before it have run for hours. So what no stage would accept ends
the composition, and with it `dvc exp run`, in one line.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from remerge.errors import RecipeError
from remerge.evaluate.suite import suite_from_params
from remerge.stages.params import UNUSED, check_params, number, one_of, only, part_donors, shown
from remerge.stages.quantize_eval import KINDS
from remerge.tensors.dtypes import MAX_FLOAT32

PARTS = ("p1", "p2")
MERGED = ("merged/p1", "merged/p2", "merged/final")
CONTAINERS = ("gguf", "ggml", "gptq")


def check_composition(params: Mapping[str, Any]) -> None:
    """RecipeError for the first thing that some stage would not accept."""
    check_params(params)
    recipe = params["recipe"]
    number(params["ties"]["lambda"], "ties.lambda", low=-MAX_FLOAT32, high=MAX_FLOAT32)
    suite_from_params(params["eval"])
    if "quantize" in params:  # absent where no format is made
        _check_quantize(params["quantize"])
    _check_outs(params)
    _check_loras(recipe)
    if sorted(recipe["parts"]) != sorted(PARTS):
        raise RecipeError(f"recipe.parts has {', '.join(recipe['parts'])}; expected p1 and p2")
    for part in PARTS:
        _check_part(recipe, part)
    _check_items(params)
    _check_report(params)


def _outs(params: Mapping[str, Any]) -> dict[str, str]:
    """Where each output of the parameters comes from: `recipe.sources.base` for `models/base`."""
    groups = {
        "recipe.sources": params["recipe"]["sources"],
        "recipe.loras": params["recipe"]["loras"],
        "quantize_eval": params.get("quantize_eval") or {},
    }
    return {
        f"{group}.{key}": e["out"] for group, table in groups.items() for key, e in table.items()
    }


def _check_outs(params: Mapping[str, Any]) -> None:
    seen: dict[str, str] = {}
    for where, out in _outs(params).items():
        if out in seen:
            raise RecipeError(f"{where}.out is {shown(out)}, which is {seen[out]}'s as well")
        seen[out] = where


def _check_loras(recipe: Mapping[str, Any]) -> None:
    kinds = {entry["out"]: entry.get("kind") for entry in recipe["sources"].values()}
    for name, lora in recipe["loras"].items():
        for key in ("model", "adapter"):
            if kinds.get(lora.get(key)) != key:
                raise RecipeError(
                    f"recipe.loras.{name}.{key} is {shown(lora.get(key))}, "
                    f"which is the out of no source of kind {key}"
                )


def _check_part(recipe: Mapping[str, Any], part: str) -> None:
    places = part_donors(recipe, part)
    taken: dict[str, str] = {}
    for place, donor in places.items():
        where = f"recipe.parts.{part}.{place}"
        number(donor["weight"], f"{where}.weight", low=0, high=MAX_FLOAT32)
        if donor["path"] in taken:
            raise RecipeError(f"{where}: {donor['path']} stands in {taken[donor['path']]} already")
        taken[donor["path"]] = place
    if not any(donor["weight"] for donor in places.values()):
        raise RecipeError(f"recipe.parts.{part}: the weights of all donors are 0")


def _check_quantize(settings: Mapping[str, Any]) -> None:
    """The settings of all formats, and those that the formats of one container read."""
    of_all = {"calibration", "texts", "measure"}
    only(settings, of_all | set(CONTAINERS), "quantize")
    for where, section, known in (
        ("quantize", settings, of_all),
        *((f"quantize.{c}", settings[c], of_all | {"name", "prompt"}) for c in CONTAINERS),
    ):
        if section is not settings:
            only(section, known, where)
        if not isinstance(section.get("measure"), bool):
            raise RecipeError(
                f"{where}.measure is {shown(section.get('measure'))}; expected true or false"
            )
        for key in known & section.keys() - {"measure"}:
            if not isinstance(section[key], str) or not section[key]:
                raise RecipeError(f"{where}.{key} is {shown(section[key])}; expected a text")


def _check_items(params: Mapping[str, Any]) -> None:
    readable = {*_outs(params).values(), *MERGED, UNUSED}
    for name, entry in (params.get("quantize_eval") or {}).items():
        one_of(entry.get("kind"), f"quantize_eval.{name}.kind", KINDS)
        if entry.get("reads") not in readable:
            raise RecipeError(
                f"quantize_eval.{name}.reads is {shown(entry.get('reads'))}, which nothing makes"
            )


def _check_report(params: Mapping[str, Any]) -> None:
    made = {*_outs(params).values(), UNUSED}
    for group in ("scores", "formats"):
        for place, folder in params["report"][group].items():
            if folder not in made:
                raise RecipeError(
                    f"report.{group}.{place} is {shown(folder)}, which no item of quantize_eval "
                    f"makes; an unused place is {UNUSED}"
                )
