"""How an adapter changes a tensor: one class for each kind of update, without the arithmetic.

>>> LowRankUpdate(a, b, scale=2.0, transposed=False).expected((64, 32))
(64, 32)

A weight is seen as a matrix: a row is a run along its last axis. Sources: Hu et al. 2021 (arXiv
2106.09685) for LoRA, Liu et al. 2024 (arXiv 2402.09353) for DoRA, Kopiczko et al. 2023 (arXiv
2310.11454) for VeRA, Hyeon-Woo et al. 2021 (arXiv 2108.06098) for LoHa, Edalati et al. 2022 (arXiv
2212.10650) for LoKr, Liu et al. 2022 (arXiv 2205.05638) for IA3; trained tokens and biases are
peft's, as are all scales.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from remerge.tensors.safetensors import TensorInfo

#: A matrix itself, or two whose product it is.
Factors = tuple[TensorInfo, ...]


class Update(Protocol):
    """A change of one tensor of a model by tensors of an adapter."""

    def infos(self) -> tuple[TensorInfo, ...]:
        """The adapter's tensors, all of which are read."""

    def expected(self, shape: tuple[int, ...]) -> tuple[int, ...] | None:
        """The shape that the update needs, `shape` where any such will do; None if it fits none."""

    def described(self) -> list[Any]:
        """What decides the result besides the tensors' values, as JSON."""

    def statistics(self) -> dict[str, Any]:
        """What the manifest says of the tensor."""


@dataclass(frozen=True)
class LowRankUpdate:
    """W' = W + scale · B·A, with A [r, in] and B [out, r]; with DoRA its vectors are rescaled.

    Attributes:
        a: A.
        b: B.
        scale: The factor of their product.
        transposed: The weight is stored [in, out] (embeddings, Conv1D), so (B·A)ᵀ is added. None:
            only the model's architecture decides it, in `remerge.adapters.fit`.
        magnitude: The norm [out] that DoRA gives each vector [in] of the result; None without DoRA.
    """

    a: TensorInfo
    b: TensorInfo
    scale: float
    transposed: bool | None
    magnitude: TensorInfo | None = None

    def infos(self) -> tuple[TensorInfo, ...]:
        """See `Update`."""
        return (self.a, self.b, self.magnitude) if self.magnitude else (self.a, self.b)

    def expected(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """See `Update`."""
        outgoing, incoming = self.b.shape[0], self.a.shape[1]
        return (incoming, outgoing) if self.transposed else (outgoing, incoming)

    def described(self) -> list[Any]:
        """See `Update`."""
        dora = ["dora"] if self.magnitude else []
        return [self.a.shape[0], self.scale, self.transposed, *dora]

    def statistics(self) -> dict[str, Any]:
        """See `Update`."""
        dora = {"dora": True} if self.magnitude else {}
        return {"rank": self.a.shape[0], "scale": self.scale, **dora}


@dataclass(frozen=True)
class VeraUpdate:
    """W' = W + (Λ_b·B)·(Λ_d·A): A [r, any in] and B [any out, r] are shared and cut to size.

    Attributes:
        a: A, frozen and random.
        b: B, frozen and random.
        lambda_d: The factors [r] of A's rows.
        lambda_b: The factors [out] of B's rows.
        transposed: As in `LowRankUpdate`.
    """

    a: TensorInfo
    b: TensorInfo
    lambda_d: TensorInfo
    lambda_b: TensorInfo
    transposed: bool | None

    def infos(self) -> tuple[TensorInfo, ...]:
        """See `Update`."""
        return (self.a, self.b, self.lambda_d, self.lambda_b)

    def expected(self, shape: tuple[int, ...]) -> tuple[int, ...] | None:
        """See `Update`."""
        if len(shape) != 2:
            return None
        outgoing = self.lambda_b.shape[0]
        incoming = min(shape[0 if self.transposed else 1], self.a.shape[1])
        if outgoing > self.b.shape[0]:
            return None
        return (incoming, outgoing) if self.transposed else (outgoing, incoming)

    def described(self) -> list[Any]:
        """See `Update`."""
        return ["vera", self.transposed]

    def statistics(self) -> dict[str, Any]:
        """See `Update`."""
        return {"rank": self.a.shape[0], "vera": True}


@dataclass(frozen=True)
class ExpertsUpdate:
    """LoRA on a parameter [experts, rows, columns]: each expert e has an A and a B of its own.

    Attributes:
        a: A [experts · r, in], the rows of one expert after those of another.
        b: B [out, r · experts]; column k·experts + e is column k of expert e.
        scale: The factor of their product.
        experts: The number of experts.
        transposed: Each expert's matrix is stored [in, out].
    """

    a: TensorInfo
    b: TensorInfo
    scale: float
    experts: int
    transposed: bool

    def infos(self) -> tuple[TensorInfo, ...]:
        """See `Update`."""
        return (self.a, self.b)

    def expected(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """See `Update`."""
        outgoing, incoming = self.b.shape[0], self.a.shape[1]
        ends = (incoming, outgoing) if self.transposed else (outgoing, incoming)
        return (self.experts, *ends)

    def described(self) -> list[Any]:
        """See `Update`."""
        return ["experts", self.experts, self.scale, self.transposed]

    def statistics(self) -> dict[str, Any]:
        """See `Update`."""
        return {"rank": self.a.shape[0] // self.experts, "scale": self.scale}


@dataclass(frozen=True)
class HadamardUpdate:
    """LoHa: W' = W + scale · (A1·B1) ∘ (A2·B2), with A [out, r] and B [r, in]."""

    one: tuple[TensorInfo, TensorInfo]
    two: tuple[TensorInfo, TensorInfo]
    scale: float

    def infos(self) -> tuple[TensorInfo, ...]:
        """See `Update`."""
        return (*self.one, *self.two)

    def expected(self, shape: tuple[int, ...]) -> tuple[int, ...] | None:
        """See `Update`."""
        ends = {(a.shape[0], b.shape[1]) for a, b in (self.one, self.two)}
        return ends.pop() if len(ends) == 1 else None

    def described(self) -> list[Any]:
        """See `Update`."""
        return ["loha", self.scale]

    def statistics(self) -> dict[str, Any]:
        """See `Update`."""
        return {"rank": self.one[1].shape[0], "scale": self.scale, "loha": True}


@dataclass(frozen=True)
class KroneckerUpdate:
    """LoKr: W' = W + scale · (C ⊗ D), each of C and D a matrix or a product of two."""

    left: Factors
    right: Factors
    scale: float

    def infos(self) -> tuple[TensorInfo, ...]:
        """See `Update`."""
        return (*self.left, *self.right)

    def expected(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """See `Update`."""
        rows = self.left[0].shape[0] * self.right[0].shape[0]
        return (rows, self.left[-1].shape[1] * self.right[-1].shape[1])

    def described(self) -> list[Any]:
        """See `Update`."""
        return ["lokr", self.scale, len(self.left), len(self.right)]

    def statistics(self) -> dict[str, Any]:
        """See `Update`."""
        return {"scale": self.scale, "lokr": True}


@dataclass(frozen=True)
class Rescaling:
    """IA3: each element times the factor of its output or of its input.

    Attributes:
        vector: The factors, [out, 1] or [1, in].
        outgoing: Whether they are the outputs'.
        transposed: Whether the weight is stored [in, out]; None: the architecture decides it.
    """

    vector: TensorInfo
    outgoing: bool
    transposed: bool | None

    def infos(self) -> tuple[TensorInfo, ...]:
        """See `Update`."""
        return (self.vector,)

    def expected(self, shape: tuple[int, ...]) -> tuple[int, ...] | None:
        """See `Update`."""
        size = self.vector.size
        if len(shape) == 1:
            return (size,)
        if len(shape) != 2:
            return None
        return (size, shape[1]) if self.outgoing != bool(self.transposed) else (shape[0], size)

    def described(self) -> list[Any]:
        """See `Update`."""
        return ["ia3", self.outgoing, self.transposed]

    def statistics(self) -> dict[str, Any]:
        """See `Update`."""
        return {"ia3": "outputs" if self.outgoing else "inputs"}


@dataclass(frozen=True)
class TokenRows:
    """Trainable tokens: the named rows are those of the adapter, the others stay."""

    tokens: tuple[int, ...]
    values: TensorInfo

    def infos(self) -> tuple[TensorInfo, ...]:
        """See `Update`."""
        return (self.values,)

    def expected(self, shape: tuple[int, ...]) -> tuple[int, ...] | None:
        """See `Update`."""
        fits = len(shape) == 2 and max(self.tokens) < shape[0]
        return (shape[0], self.values.shape[1]) if fits else None

    def described(self) -> list[Any]:
        """See `Update`."""
        return ["tokens", list(self.tokens)]

    def statistics(self) -> dict[str, Any]:
        """See `Update`."""
        return {"tokens": len(self.tokens)}


@dataclass(frozen=True)
class BiasShift:
    """The bias of B (`lora_bias`): b' = b + scale · v."""

    vector: TensorInfo
    scale: float

    def infos(self) -> tuple[TensorInfo, ...]:
        """See `Update`."""
        return (self.vector,)

    def expected(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """See `Update`."""
        return self.vector.shape

    def described(self) -> list[Any]:
        """See `Update`."""
        return ["bias", self.scale]

    def statistics(self) -> dict[str, Any]:
        """See `Update`."""
        return {"bias": True, "scale": self.scale}
