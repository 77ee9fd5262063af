"""What to type to build a model again, check it and talk to it."""

from __future__ import annotations

import shlex

from remerge.report.build import Build


def rebuild_commands(build: Build) -> list[str]:
    """What to type to build the model again, check it and talk to it."""
    raw = " --raw" if build.recipe.get("prompt") == "raw" else ""
    rebuild = "dvc repro"
    if build.overrides is not None:
        settings = (f"-S {shlex.quote(override)}" for override in build.overrides)
        rebuild = " ".join(["dvc exp run", *settings])
    return [rebuild, "remerge id merged/final", f"remerge chat merged/final{raw}"]
