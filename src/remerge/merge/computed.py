"""Models that are computed while they are read: another merge, or a LoRA baked into a model.

>>> model = computed_model("first-merge", plan, folder)
>>> model.checkpoint.tensors["model.norm.weight"]

The plan of such a model is an input like any other. A tensor of it is computed when a merge asks
for it, in the type that its file would have, and forgotten; so the bytes are those of a merge in
two steps, without the disk space. Its config and tokenizer files lie in `folder`.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from remerge.architectures.compatibility import COMPUTED
from remerge.shards.artefact import ArtefactPlan
from remerge.tensors.checkpoint import Checkpoint
from remerge.tensors.layout import OutputTensor
from remerge.tensors.safetensors import TensorInfo

#: Bytes of computed tensors that may be held at once, unless one tensor needs more.
MEMORY = 4_000_000_000


@runtime_checkable
class Nested(Protocol):
    """A plan that may compute other models on the way."""

    def needs(self, tensor: OutputTensor) -> int:
        """Bytes held of other models while a tensor is computed."""


@dataclass(frozen=True)
class ComputedModel:
    """A plan that takes the place of a model's files.

    Attributes:
        checkpoint: Its tensors by name, none of which lies in a file.
        plan: What computes them.
        outputs: The tensors of the plan; a tensor's `offset` in the checkpoint is its place here.
    """

    checkpoint: Checkpoint
    plan: ArtefactPlan
    outputs: tuple[OutputTensor, ...]

    def tensor_of(self, info: TensorInfo) -> OutputTensor:
        """The plan's tensor that stands behind one of the checkpoint, whatever it is called."""
        return self.outputs[info.offset]

    def needs(self, info: TensorInfo) -> int:
        """Bytes held while the tensor is computed: it, and what it is computed of."""
        tensor = self.tensor_of(info)
        return tensor.nbytes + (self.plan.needs(tensor) if isinstance(self.plan, Nested) else 0)

    def bytes_of(self, info: TensorInfo) -> np.ndarray:
        """Compute the tensor's little-endian bytes: uint8 [nbytes], the first rows if it is cut."""
        data = np.empty(self.tensor_of(info).nbytes, np.uint8)
        filled = 0
        for chunk in self.plan.compute(self.tensor_of(info)):
            if chunk is not None:
                flat = chunk.view(np.uint8).reshape(-1)
                data[filled : filled + flat.size] = flat
                filled += flat.size
        return data[: info.nbytes]


def computed_model(label: str, plan: ArtefactPlan, folder: Path) -> ComputedModel:
    """The result of `plan` as a model called `label`; `folder` holds its config and tokenizer."""
    outputs = tuple(tensor for shard in plan.shards for tensor in shard.tensors)
    tensors = {
        out.name: TensorInfo(out.name, out.dtype, out.shape, COMPUTED, place, out.nbytes)
        for place, out in enumerate(outputs)
    }
    return ComputedModel(Checkpoint(label, folder, tensors), plan, outputs)


class Memory:
    """Lets threads hold so many bytes together; one that needs more waits until it is alone."""

    def __init__(self, limit: int = MEMORY) -> None:
        self._limit, self._held = limit, 0
        self._changed = threading.Condition()

    @contextmanager
    def held(self, nbytes: int) -> Iterator[None]:
        """Wait until `nbytes` fit, and hold them for the block; 0 waits for nothing."""
        if not nbytes:
            yield
            return
        with self._changed:
            self._changed.wait_for(lambda: not self._held or self._held + nbytes <= self._limit)
            self._held += nbytes
        try:
            yield
        finally:
            with self._changed:
                self._held -= nbytes
                self._changed.notify_all()


def all_inputs(
    files: Mapping[str, dict[str, Any]], computed: Mapping[str, ComputedModel]
) -> dict[str, dict[str, Any]]:
    """Identities of the folders behind a plan, those behind its computed models included."""
    found = dict(files)
    for model in computed.values():
        found |= model.plan.inputs()
    return found
