"""All that a report is about, as it was read from the parameters and the outputs of the stages.

>>> build = Build(recipe=…, ties=…, gradient=…, suite=…, scored=…, formats=…, merges=…)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from remerge.architectures.layer_number import split_layer
from remerge.evaluate.results import compare
from remerge.evaluate.suite import Suite


@dataclass(frozen=True)
class Scored:
    """The scores of one model.

    role    base, donor, part, final, or quant: a format of the result in its own runtime
    part    p1 or p2 for a donor, else empty
    result  the content of its `scores.json`
    answers  the content of its `answers.json`: the first questions of each task
    """

    name: str
    role: str
    part: str
    result: Mapping[str, Any]
    answers: Mapping[str, Any] = field(default_factory=dict)

    def score(self, task: str) -> float | None:
        """The fraction reached in `task`, or in the mean of all under the name `mean`."""
        value = self.result["average"] if task == "mean" else self.result["scores"].get(task)
        return None if value is None else float(value)


@dataclass(frozen=True)
class Build:
    """One build of a recipe.

    recipe, ties, gradient  sections of the parameters
    suite    what was scored, with published scores where there are any
    scored   models in the order in which tables show them
    formats  the manifest of each quantised format, by name
    merges   the manifests of p1, p2 and final
    overrides  of `conf/` that compose to the parameters; None where none are known
    """

    recipe: Mapping[str, Any]
    ties: Mapping[str, Any]
    gradient: Mapping[str, Any]
    suite: Suite
    merges: Mapping[str, Mapping[str, Any]]
    scored: tuple[Scored, ...] = ()
    formats: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    overrides: tuple[str, ...] | None = None

    @property
    def title(self) -> str:
        """The model's name."""
        return str(self.recipe.get("title") or self.recipe["name"])

    @property
    def final(self) -> Mapping[str, Any]:
        """The manifest of the result."""
        return self.merges["final"]

    @property
    def tasks(self) -> list[str]:
        """Every task that some model was scored on, in the suite's order."""
        names = [benchmark.name for benchmark in self.suite.benchmarks]
        return [n for n in names if any(n in model.result["scores"] for model in self.scored)]

    @property
    def limited(self) -> bool:
        """Whether only the first items of each task were scored: nothing to publish or compare."""
        limits = [model.result["settings"]["limit"] for model in self.scored]
        return any(limit is not None for limit in [self.suite.limit, *limits])

    @property
    def notes(self) -> list[str]:
        """What has to be known about the scores: the suite's notes, then those of single models."""
        said: dict[str, list[str]] = {note: [] for note in self.suite.notes}
        for model in self.scored:
            for note in model.result["notes"]:
                said.setdefault(note, []).append(model.name)
        everybody = [model.name for model in self.scored]
        return [
            note
            if note in self.suite.notes or names == everybody
            else f"{', '.join(names)}: {note}"
            for note, names in said.items()
        ]

    @property
    def assumptions(self) -> list[str]:
        """What the recipe chose because its author published nothing, a sentence each."""
        listed = self.recipe.get("assumptions") or {}
        if isinstance(listed, Mapping):
            return [f"{name}: {text}" for name, text in listed.items()]
        return [str(text) for text in listed]

    def role(self, role: str) -> list[Scored]:
        """The scored models of one role."""
        return [model for model in self.scored if model.role == role]

    def against_final(self, model: Scored) -> dict[str, float]:
        """By task and for the mean, a model's score minus the result's, to four decimals."""
        final = next(iter(self.role("final")), None)
        if final is None:
            return {}
        return {
            task: round(score - reached, 4)
            for task in [*self.tasks, "mean"]
            if (score := model.score(task)) is not None
            and (reached := final.score(task)) is not None
        }

    def donors(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Every donor with its part, in recipe order; its `source` is that of its weights."""
        loras = self.recipe.get("loras") or {}
        by_out = {entry["out"]: entry for entry in loras.values()}
        for part, places in self.recipe["parts"].items():
            for place in sorted(places):
                donor = places[place]
                if not donor or donor.get("name") is None:
                    continue
                baked = by_out.get(donor["path"])
                model = baked["model"] if baked else donor["path"]
                adapter = self._source(baked["adapter"]) if baked else None
                yield part, {**donor, "source": self._source(model), "adapter": adapter}

    def base_source(self) -> tuple[str, Mapping[str, Any]]:
        """Name and entry of the base's source."""
        return self._source(self.recipe["base"])

    def _source(self, out: str) -> tuple[str, Mapping[str, Any]]:
        for name, entry in self.recipe["sources"].items():
            if entry.get("out") == out:
                return name, entry
        return out, {}

    def published(self) -> list[tuple[str, list[dict[str, Any]]]]:
        """Models of which scores were published, with `compare`'s rows; none of limited scores."""
        if self.limited:
            return []
        known = {self.title: next(iter(self.role("final")), None)}
        for _, donor in self.donors():
            repo = str(donor["source"][1].get("repo") or "")
            if repo and not donor["adapter"]:
                scored = (m for m in self.role("donor") if m.name == donor["name"])
                known[repo.rpartition("/")[2]] = next(scored, None)
        return [
            (name, compare(self.suite, name, model.result))
            for name, model in known.items()
            if model is not None and self.suite.published.get(name)
        ]


def place_of(tensor: str) -> tuple[int | None, str]:
    """Layer (None outside of the layers) and kind of a tensor, read from its name."""
    layer, rest = split_layer(tensor) or (None, tensor)
    return layer, rest.removesuffix(".weight")


def origin(entry: Mapping[str, Any]) -> str:
    """Where a source comes from: repository and commit, or a folder of this project."""
    if entry.get("repo"):
        return f"{entry['repo']}@{entry.get('revision') or 'not pinned'}"
    return str(entry.get("path") or "")
