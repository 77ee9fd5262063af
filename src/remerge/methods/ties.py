"""TIES as a plan: trim, elect sign, merge, tensor by tensor.

>>> plan = plan_ties(base, donors, TiesSettings(), dtype="F16", shard_bytes=10**9)
>>> build_shards(plan, folder, threads=8)

Source: Yadav et al. 2023, "TIES-Merging: Resolving Interference When Merging Models"
(arXiv 2306.01708), section 3.2. The rounding of every step stands beside the kernels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from remerge.architectures.alignment import align_heads
from remerge.architectures.compatibility import Note, fit, require_mergeable, weights_only
from remerge.errors import RecipeError
from remerge.kernels.blocks import DEFAULT_BLOCK, RawTensor, records
from remerge.methods.ties_kernel import LANES, donor_records, merge_chunk, rule_record
from remerge.methods.trim import find_trims
from remerge.shards.chunks import chunks_of, name_bad_number
from remerge.shards.inputs import input_identity, require_distinct
from remerge.shards.units import Chunks
from remerge.tensors.checkpoint import Checkpoint, raw_bytes
from remerge.tensors.dtypes import KERNEL_CODE, MAX_FLOAT32
from remerge.tensors.layout import OutputTensor, Shard, plan_shards
from remerge.tensors.safetensors import TensorInfo

ELECTIONS = ("sum", "count")
#: Rules for a donor's rows of tokens; `one` marks models that were given one vocabulary.
VOCABULARIES = ("truncate", "map", "rows", "one")


@dataclass(frozen=True)
class TiesSettings:
    """λ, whether the merged task vector is a mean or a sum, and how the sign is elected."""

    lam: float = 1.0
    normalize: bool = True
    elect: str = "sum"

    def __post_init__(self) -> None:
        if not abs(self.lam) <= MAX_FLOAT32:
            raise RecipeError(f"ties.lambda is {self.lam}; expected a finite float32")
        if self.elect not in ELECTIONS:
            raise RecipeError(
                f"ties.elect is {self.elect!r}; expected one of {', '.join(ELECTIONS)}"
            )


@dataclass(frozen=True)
class Donor:
    """A model that gives its task vector: `density` of it in (0, 1], times `weight`.

    A negative weight negates the task vector; the merge divides by magnitudes of weights.

    vocabulary  the rule for its rows of tokens: one of VOCABULARIES, or None for equal rows
    notes       what was done to the model before, for the manifest
    rows        SHA-256 of the map by which its rows were moved; empty if they were not
    """

    model: Checkpoint
    density: float
    weight: float = 1.0
    vocabulary: str | None = None
    notes: tuple[Note, ...] = ()
    rows: str = ""

    def __post_init__(self) -> None:
        if self.vocabulary not in (None, *VOCABULARIES):
            raise RecipeError(
                f"{self.model.label}: vocabulary is {self.vocabulary!r}; expected one of "
                f"{', '.join(VOCABULARIES)}, or none"
            )
        if not (math.isfinite(self.density) and 0 < self.density <= 1):
            raise RecipeError(f"{self.model.label}: density {self.density} is not in (0, 1]")
        if not abs(self.weight) <= MAX_FLOAT32:
            raise RecipeError(f"{self.model.label}: weight {self.weight} is no finite float32")


@dataclass(frozen=True)
class TiesPlan:
    """All that the merge depends on; see `plan_ties`."""

    label: str
    base: Checkpoint
    donors: tuple[Donor, ...]
    settings: TiesSettings
    base_tensors: dict[str, TensorInfo]
    donor_tensors: tuple[dict[str, TensorInfo], ...]
    shards: tuple[Shard, ...]
    notes: tuple[Note, ...]
    unties: bool = False
    block: int = DEFAULT_BLOCK

    def parameters(self) -> dict[str, Any]:
        """The settings for manifest and resume key: no paths, no machine."""
        return {
            "method": "ties",
            **asdict(self.settings),
            "base": self.base.label,
            "donors": [
                {
                    "model": donor.model.label,
                    "density": donor.density,
                    "weight": donor.weight,
                    "vocabulary": donor.vocabulary,
                }
                for donor in self.donors
            ],
        }

    def inputs(self) -> dict[str, dict[str, Any]]:
        """Identity of every input folder, by label."""
        models = [self.base, *(donor.model for donor in self.donors)]
        return {model.label: input_identity(model.folder) for model in models}

    def details(self) -> list[str]:
        """Where the rows of each mapped donor went."""
        return [donor.rows for donor in self.donors]

    def reads(self, tensor: OutputTensor) -> list[TensorInfo]:
        """The input tensors that `compute` maps: the base's and each donor's."""
        return [t[tensor.name] for t in (self.base_tensors, *self.donor_tensors)]

    def compute(self, tensor: OutputTensor) -> Chunks:
        """Merge one tensor; the statistics are those of `_statistics`."""
        infos = self.reads(tensor)
        labels = [self.base.label, *(donor.model.label for donor in self.donors)]
        inputs = dict(zip(labels, infos, strict=True))
        base, *donors = (RawTensor(raw_bytes(i), KERNEL_CODE[i.dtype]) for i in infos)
        keep = [math.floor(donor.density * tensor.size) for donor in self.donors]
        trims = find_trims(base, donors, tensor.size, keep)
        if trims is None:
            raise name_bad_number(inputs, tensor.name)
        count = len(self.donors)
        gram = np.zeros((count * count, LANES), np.float64)
        projections = np.zeros((count, LANES), np.float64)
        counts = np.zeros(3 + count, np.int64)
        tensors = records(donors)
        kept = donor_records(trims, [donor.weight for donor in self.donors])
        settings = self.settings
        rule = rule_record(settings.lam, settings.normalize, settings.elect, tensor.size)

        def merge(part: np.void) -> int:
            return merge_chunk(base.record, tensors, kept, rule, part, gram, projections, counts)

        yield from chunks_of(tensor, merge, inputs, block=self.block)
        return _statistics(gram, projections, counts, keep)


def _statistics(
    gram: np.ndarray, projections: np.ndarray, counts: np.ndarray, keep: Sequence[int]
) -> dict[str, Any]:
    """What the merge saw, over a fixed sample of the tensor (all of it when it is small).

    norms           root mean square of each untrimmed task vector
    cosines         between them, upper triangle by rows
    kept            how many entries the trim kept, exactly
    conflict        share of the changed entries on which survivors disagree in sign
    contributions   share of the merged task vector that each donor gave; they sum to 1
    """
    models = len(keep)
    seen, changed, conflicts = counts[:3].tolist()
    # fsum: the exact sum of the partial sums, so that there is no order to depend on.
    dots = [math.fsum(lanes) for lanes in gram.tolist()]
    squares = dots[:: models + 1]
    cosines = [
        dots[a * models + b] / math.sqrt(squares[a] * squares[b])
        if squares[a] and squares[b]
        else 0.0
        for a in range(models)
        for b in range(a + 1, models)
    ]
    parts = [math.fsum(lanes) for lanes in projections.tolist()]
    total = math.fsum(parts)
    return {
        "norms": [_rounded(math.sqrt(s / seen) if seen else 0.0) for s in squares],
        "cosines": [_rounded(c) for c in cosines],
        "kept": list(keep),
        "conflict": _rounded(conflicts / changed if changed else 0.0),
        "contributions": [_rounded(p / total if total else 0.0) for p in parts],
    }


def _rounded(value: float) -> float:
    """Six significant digits: far coarser than any difference a math library could make."""
    return float(f"{float(value):.6g}")


def plan_ties(
    base: Checkpoint,
    donors: Sequence[Donor],
    settings: TiesSettings,
    *,
    dtype: str,
    shard_bytes: int,
    label: str = "ties",
) -> TiesPlan:
    """Check base and donors against each other by their headers and lay out the result.

    dtype        safetensors type of the result (`F16`, `BF16` or `F32`)
    shard_bytes  size limit of an output file

    CheckpointError for models that do not fit, RecipeError for settings out of range.
    """
    if not donors:
        raise RecipeError(f"{label}: a merge needs at least one donor")
    if all(np.float32(donor.weight) == 0 for donor in donors):
        raise RecipeError(f"{label}: the weights of all donors are 0")
    require_distinct([base.label, *(donor.model.label for donor in donors)], label)
    aligned = align_heads([base, *(donor.model for donor in donors)])
    base, *models = aligned.models
    donors = [replace(d, model=model) for d, model in zip(donors, models, strict=True)]
    base_tensors, base_notes = weights_only(base)
    require_mergeable(base, base_tensors)
    fitted = [fit(donor.model, base, base_tensors, donor.vocabulary) for donor in donors]
    notes = [*base_notes, *aligned.notes, *(note for donor in donors for note in donor.notes)]
    notes += [note for _, donor_notes in fitted for note in donor_notes]
    for donor in donors:
        for name, info in base_tensors.items():
            if info.size and math.floor(donor.density * info.size) < 1:
                text = f"density {donor.density} keeps none of {info.size} entries"
                notes.append(Note(donor.model.label, name, text))
    outputs = [OutputTensor(name, dtype, info.shape) for name, info in base_tensors.items()]
    return TiesPlan(
        label=label,
        base=base,
        donors=tuple(donors),
        settings=settings,
        base_tensors=base_tensors,
        donor_tensors=tuple(tensors for tensors, _ in fitted),
        shards=plan_shards(outputs, shard_bytes),
        notes=tuple(notes),
        unties=aligned.unties,
    )
