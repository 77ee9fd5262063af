"""Score models in a child process, so that a hostile file ends there and not here.

>>> score_watched([Model("final", Path("merged/final"), Path("scores/final"))],
...               params["eval"], limits, scratch="scratch/evaluate")

Torch, transformers and lm-eval are imported by the child alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any

from remerge.evaluate.scoring import Model, score_many
from remerge.evaluate.suite import suite_from_params, with_settings
from remerge.watchdog import Channel, Limits, Watched


def score_watched(
    models: Sequence[Model],
    suite: Mapping[str, Any],
    limits: Limits,
    *,
    settings: Mapping[str, Any] | None = None,
    scratch: Path | str | None = None,
    whole_folder: Path | str | None = None,
) -> dict[str, dict[str, Any]]:
    """Score several models in one child process, one after the other.

    Args:
        models: As for `score_many`.
        suite: The section `eval` of the parameters.
        limits: What the child may use.
        settings: In place of the suite's own, as for `with_settings`.
        scratch: As for `score_many`.
        whole_folder: As for `score_many`.

    Returns:
        The results by name of the model, as `score_many` does, which the child has written too.

    Raises:
        RecipeError, SourceError, CheckpointError, NumericError: As `score_many`.
        ToolError: The runtime is missing or fails, or the child is beyond its limits.
    """
    arguments = {
        "models": [list(map(str, astuple(model))) for model in models],
        "suite": dict(suite),
        "settings": dict(settings or {}),
        "scratch": _text(scratch),
        "whole_folder": _text(whole_folder),
    }
    about = ", ".join(str(model.folder) for model in models)
    with Watched("remerge.evaluate.watched:work", arguments, limits, about, grace_s=3.0) as child:
        results: dict[str, dict[str, Any]] = child.ask({}, lambda _: None)
    return results


def _text(path: Path | str | None) -> str | None:
    return None if path is None else str(path)


def work(channel: Channel, arguments: dict[str, Any]) -> None:
    """Be the child: score the models, answer with the results."""
    channel.request()
    results = score_many(
        [Model(name, Path(path), Path(out)) for name, path, out in arguments["models"]],
        with_settings(suite_from_params(arguments["suite"]), **arguments["settings"]),
        scratch=arguments["scratch"],
        whole_folder=arguments["whole_folder"],
    )
    channel.send(answer=results)
