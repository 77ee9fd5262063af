"""Random tensors for the merge methods, and the comparison with a reference."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from hypothesis import strategies as st

from remerge.errors import NumericError
from tests.kernels.drivers import DTYPES, raw_tensors
from tests.kernels.reference import decode, encode, round_to
from tests.methods.running import Typed, inputs_of, merged

shapes = st.one_of(
    st.sampled_from([(), (0,), (1,), (7,), (0, 5), (3, 0)]),
    st.tuples(st.integers(1, 70)),
    st.tuples(st.integers(1, 9), st.integers(1, 19)),
    st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 9)),
)


@st.composite
def families(draw: st.DrawFn, models: tuple[int, int] = (1, 8), kin: bool = True) -> dict:
    """A shape, a base, and models of any type: unrelated, equal, opposite, or zero."""
    shape = draw(shapes)
    size = math.prod(shape)
    count = draw(st.integers(*models))
    tensors = [draw(raw_tensors(size)) for _ in range(count + 1)]
    relation = draw(st.sampled_from(["own", "own", "equal", "opposite", "zero", "normal"]))
    base = tensors[0]
    if relation == "normal":
        rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
        wide = [rng.standard_normal(size) * 0.02 for _ in tensors]
        tensors = [(d, encode((wide[0] + w * 0.1).astype(np.float32), d))
                   for w, (d, _) in zip(wide, tensors, strict=True)]  # fmt: skip
    elif relation != "own":
        first = decode(base[1], base[0])
        sign = {"equal": 1, "opposite": -1, "zero": 0}[relation]
        made = ("F32", (np.float32(sign) * first).view(np.uint8))
        tensors = [base, *(made if draw(st.booleans()) else t for t in tensors[1:])]
    return {
        "shape": shape,
        "base": tensors[0],
        "models": tensors[1:],
        "dtype": draw(st.sampled_from(DTYPES)),
    }


def values_of(tensor: Typed, shape: tuple[int, ...]) -> np.ndarray:
    return decode(tensor[1], tensor[0]).reshape(shape)


def same(method: str, family: dict, base: bool, given: dict, expected: Any) -> None:
    """The method's bytes are those of `expected()`, the reference, for several block sizes."""
    from tests.methods.reference import Refused

    def run(block: int) -> bytes | None:
        try:
            return merged(method, inputs_of(family, base, block), given)[0]
        except NumericError:
            return None

    wanted: bytes | None = b""
    if math.prod(family["shape"]):
        try:
            with np.errstate(all="ignore"):
                values = np.asarray(expected(), np.float32)
            fits = np.isfinite(round_to(values, family["dtype"])).all()
            wanted = encode(values, family["dtype"]).tobytes() if fits else None
        except Refused:
            wanted = None
    for block in (512, 8):
        assert run(block) == wanted
