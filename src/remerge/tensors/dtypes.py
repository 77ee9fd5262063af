"""The number types of safetensors, and which of them can be merged.

Names are those of the safetensors format (`F16`, `BF16`, …); recipes use the longer names of torch
(`float16`, `bfloat16`, …).
"""

from __future__ import annotations

from collections.abc import Iterable

from remerge.errors import CheckpointError, RecipeError

#: The largest float32: weights are rounded to that type.
MAX_FLOAT32 = 3.4028234663852886e38
#: Bytes an element, for every type this library knows the size of.
ITEM_SIZE: dict[str, int] = {
    "BOOL": 1,
    "U8": 1,
    "I8": 1,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "F8_E8M0": 1,
    "U16": 2,
    "I16": 2,
    "F16": 2,
    "BF16": 2,
    "U32": 4,
    "I32": 4,
    "F32": 4,
    "U64": 8,
    "I64": 8,
    "F64": 8,
}

#: Types whose every value is a float32, and the code by which the kernels know them.
KERNEL_CODE: dict[str, int] = {"F16": 0, "BF16": 1, "F32": 2}

#: What torch, and recipes, call these types.
TORCH_NAMES = {"float16": "F16", "bfloat16": "BF16", "float32": "F32"}


def from_torch_name(name: str) -> str:
    """`float16` → `F16`; RecipeError for a type that no merge can write."""
    if name not in TORCH_NAMES:
        raise RecipeError(f"dtype {name!r} is not one of {', '.join(TORCH_NAMES)}")
    return TORCH_NAMES[name]


def to_torch_name(dtype: str) -> str:
    """`F16` → `float16`; CheckpointError for a type that no model is loaded as."""
    names = {short: long for long, short in TORCH_NAMES.items()}
    if dtype not in names:
        raise CheckpointError(f"weights are {dtype}; expected one of {', '.join(names)}")
    return names[dtype]


def promoted(dtypes: Iterable[str]) -> str:
    """The smallest type that holds every value of all of `dtypes`, of those that can be merged."""
    found = set(dtypes)
    return found.pop() if len(found) == 1 else "F32"
