"""Which stages other parameters would run, by `dvc.lock`: nothing is started, nothing is hashed.

>>> affected(read_yaml(Path("dvc.lock")), params)
['ties_p1', 'gradient', 'quantize_eval@gguf_q4_k_m', 'quantize_eval@score_final', 'report']

A stage runs if a parameter that it tracks has another value than at its last run, if it has not run
yet, or if one of its inputs is made by a stage that runs. Changed files are DVC's to find (`dvc
status`): they are not looked at here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: Sections of the parameters with an item a stage.
_ITEMS = ("fetch", "bake_loras", "quantize_eval", "collect")
_SINGLE = ("ties_p1", "ties_p2", "gradient", "report")
_MISSING = object()


def affected(lock: Any, params: Mapping[str, Any]) -> list[str]:
    """Name the stages that parameters would run.

    Args:
        lock: `dvc.lock` as YAML gives it.
        params: The parameters as they are composed, derived tables included.

    Returns:
        Names of stages as DVC writes them, in the order of the pipeline.
    """
    stages = lock.get("stages") if isinstance(lock, Mapping) else None
    known = stages if isinstance(stages, Mapping) else {}
    names = stages_of(params)
    running = {
        name for name in names if _changed(known.get(name), params) or _moved(name, known, params)
    }
    made = {
        path: name
        for name, entry in known.items()
        if isinstance(entry, Mapping)
        for path in _paths(entry, "outs")
    }
    while True:
        more = {
            name for name in names if name not in running and _reads(known[name], running, made)
        }
        if not more:
            return [name for name in names if name in running]
        running |= more


def stages_of(params: Mapping[str, Any]) -> list[str]:
    """All stages of some parameters, in the order of the pipeline."""
    fetch, bake, items, collections = (
        [f"{s}@{key}" for key in params.get(s) or {}] for s in _ITEMS
    )
    return [*fetch, *bake, *_SINGLE[:3], *items, *collections, _SINGLE[3]]


def in_words(names: list[str], total: int) -> str:
    """Say the stages on one line; many items of a stage by their number."""
    groups: dict[str, list[str]] = {}
    for name in names:
        stage, _, item = name.partition("@")
        groups.setdefault(stage, []).append(item)
    told = [
        f"{stage} ({', '.join(items) if len(items) <= 4 else f'{len(items)} items'})"
        if items[0]
        else stage
        for stage, items in groups.items()
    ]
    return f"{', '.join(told) or 'nothing'}: {len(names)} of {total} stages"


def _changed(entry: Any, params: Mapping[str, Any]) -> bool:
    """Whether a stage has not run, or tracks a parameter that has another value now."""
    if not isinstance(entry, Mapping):
        return True
    tracked = (entry.get("params") or {}).get("params.yaml") or {}
    return any(_value(params, key) != value for key, value in tracked.items())


def _moved(name: str, known: Mapping[str, Any], params: Mapping[str, Any]) -> bool:
    """Whether a stage reads other folders than at its last run; its paths are no parameters."""
    stage, _, key = name.partition("@")
    if name == "report":
        read = {params["report"]["collected"]}
    elif stage == "quantize_eval":
        read = {params[stage][key]["reads"]}
    elif stage == "collect":
        read = {params[stage][key]["after"], *params[stage][key]["folders"].values()}
    else:
        return False
    return not read <= set(_paths(known.get(name) or {}, "deps"))


def _value(params: Mapping[str, Any], key: str) -> Any:
    found: Any = params
    for part in key.split("."):
        if not isinstance(found, Mapping) or part not in found:
            return _MISSING
        found = found[part]
    return found


def _reads(entry: Mapping[str, Any], running: set[str], made: Mapping[str, str]) -> bool:
    """Whether a stage reads an output, or a file in one, of a stage that runs."""
    for path in _paths(entry, "deps"):
        parts = path.split("/")
        for end in range(1, len(parts) + 1):
            if made.get("/".join(parts[:end])) in running:
                return True
    return False


def _paths(entry: Mapping[str, Any], kind: str) -> list[str]:
    return [str(each["path"]) for each in entry.get(kind) or ()]
