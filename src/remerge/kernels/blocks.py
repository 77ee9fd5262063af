"""The first and the last step of every merge kernel: a block of raw bytes to float32 and back.

Tensors come as records with their address: a tuple of arrays would be compiled anew for each
number of models, an array of TENSOR is one type. Inlined into the kernels, so that a block never
leaves the cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from llvmlite import ir
from numba import carray, njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from remerge.kernels.compiled import kernel
from remerge.kernels.halves import (
    BF16,
    F16,
    bf16_bits_to_f32,
    f32_to_bf16_bits,
    load_f16,
    store_f16,
    target_has,
    u32,
)

#: Elsewhere LLVM would take the vector apart, which is slower than not to make one.
COMPRESSES = target_has("avx512f")
_LANES = 16

#: Elements a step of a merge: all rows of scratch stay in the first cache up to eight donors.
DEFAULT_BLOCK = 512

#: A whole tensor as kernels take it: where its bytes begin, and the code of their type.
TENSOR = np.dtype([("address", np.uint64), ("code", np.int64)], align=True)
#: What one call computes: elements [begin, end), in steps of `block`, which does not change the
#: result. The first goes to `address`, all as the type `code`.
PART = np.dtype(
    [
        ("begin", np.int64),
        ("end", np.int64),
        ("address", np.uint64),
        ("code", np.int64),
        ("block", np.int64),
    ],
    align=True,
)
#: How signatures of kernels name both.
RECORDS = {"tensor": TENSOR, "part": PART}

#: What a kernel returns.
OK, BAD_INPUT, OVERFLOW = 0, 1, 2


@intrinsic
def pointer(_typing_context, address):
    """The uint64 `address` as a pointer that `numba.carray` accepts."""

    def generate(_context, builder, _signature, arguments):
        return builder.inttoptr(arguments[0], ir.IntType(8).as_pointer())

    return types.voidptr(types.uint64), generate


def address(array_u8: np.ndarray) -> np.uint64:
    """Where the bytes of `array_u8` begin; the caller keeps the array alive."""
    return np.uint64(array_u8.ctypes.data)


@njit(inline="always", error_model="numpy")
def magnitude_bits(value_f32):
    """The bits of |value|, which order like |value| itself."""
    return u32(np.float32(value_f32).view(np.uint32) & u32(0x7FFFFFFF))


@njit(inline="always", error_model="numpy")
def widen_block(tensor, start, count, out_f32):
    """out_f32[:count] = elements [start, start+count) of the TENSOR."""
    address = tensor.address
    code = tensor.code
    if code == F16:
        half = carray(pointer(address + np.uint64(2) * np.uint64(start)), count, np.uint16)
        for j in range(count):
            out_f32[j] = load_f16(half[j])
    elif code == BF16:
        half = carray(pointer(address + np.uint64(2) * np.uint64(start)), count, np.uint16)
        for j in range(count):
            out_f32[j] = bf16_bits_to_f32(half[j])
    else:
        full = carray(pointer(address + np.uint64(4) * np.uint64(start)), count, np.float32)
        for j in range(count):
            out_f32[j] = full[j]


@njit(inline="always", error_model="numpy")
def subtract_block(tensor, start, count, base_f32, delta_f32):
    """delta_f32[:count] = elements [start, start+count) of the TENSOR − base_f32[:count].

    Returns whether every difference is finite.
    """
    address = tensor.address
    code = tensor.code
    highest = u32(0)
    if code == F16:
        half = carray(pointer(address + np.uint64(2) * np.uint64(start)), count, np.uint16)
        for j in range(count):
            delta = np.float32(load_f16(half[j]) - base_f32[j])
            delta_f32[j] = delta
            highest = u32(max(highest, magnitude_bits(delta)))
    elif code == BF16:
        half = carray(pointer(address + np.uint64(2) * np.uint64(start)), count, np.uint16)
        for j in range(count):
            delta = np.float32(bf16_bits_to_f32(half[j]) - base_f32[j])
            delta_f32[j] = delta
            highest = u32(max(highest, magnitude_bits(delta)))
    else:
        full = carray(pointer(address + np.uint64(4) * np.uint64(start)), count, np.float32)
        for j in range(count):
            delta = np.float32(full[j] - base_f32[j])
            delta_f32[j] = delta
            highest = u32(max(highest, magnitude_bits(delta)))
    return highest < u32(0x7F800000)


@intrinsic
def _compress(_typing_context, source, start, low, span, target, slot):
    """Move those of 16 magnitudes that are inside to the front: LLVM's vector.compress."""
    signature = types.uint64(source, types.int64, types.uint32, types.uint32, target, types.uint64)

    def generate(context, builder, signature, arguments):
        integer = ir.IntType(32)
        vector, flags = ir.VectorType(integer, _LANES), ir.VectorType(ir.IntType(1), _LANES)
        nothing = ir.Constant(vector, ir.Undefined)

        def lanes_at(array_type, array, index):
            data = context.make_array(array_type)(context, builder, array).data
            first = builder.gep(builder.bitcast(data, integer.as_pointer()), [index])
            return builder.bitcast(first, vector.as_pointer())

        def in_all_lanes(scalar):
            one = builder.insert_element(nothing, scalar, ir.Constant(integer, 0))
            return builder.shuffle_vector(one, nothing, ir.Constant(vector, [0] * _LANES))

        values, index, low, span, target, slot = arguments
        bits = builder.load(lanes_at(signature.args[0], values, index), align=4)
        bits = builder.and_(bits, ir.Constant(vector, [0x7FFFFFFF] * _LANES))
        above_low = builder.sub(bits, in_all_lanes(low))
        inside = builder.icmp_unsigned("<=", above_low, in_all_lanes(span))
        name = f"llvm.experimental.vector.compress.v{_LANES}i32"
        function_type = ir.FunctionType(vector, [vector, flags, vector])
        compress = cgutils.get_or_insert_function(builder.module, function_type, name)
        packed = builder.call(compress, [bits, inside, nothing])
        builder.store(packed, lanes_at(signature.args[4], target, slot), align=4)
        count = builder.ctpop(builder.bitcast(inside, ir.IntType(_LANES)))
        return builder.add(slot, builder.zext(count, slot.type))

    return signature, generate


@njit(inline="always", error_model="numpy")
def collect_block(values_f32, count, low, high, target_u32, position):
    """Append the magnitudes of `values_f32[:count]` whose bits are in [low, high], in order.

    From target_u32[position] on, which needs room for `count`; returns the position after them.
    """
    # Written always, kept when inside: no branch to mispredict. Unsigned, so that no index can be
    # negative. Where the processor can move 16 at once, it does.
    slot = np.uint64(position)
    span = u32(high - low)
    done = count - count % _LANES if COMPRESSES else 0
    if COMPRESSES:
        for j in range(0, done, _LANES):
            slot = _compress(values_f32, j, low, span, target_u32, slot)
    for j in range(done, count):
        magnitude = magnitude_bits(values_f32[j])
        target_u32[slot] = magnitude
        slot = np.uint64(slot + np.uint64(u32(magnitude - low) <= span))
    return np.int64(slot)


@njit(inline="always", error_model="numpy")
def narrow_block(values_f32, count, part, start):
    """Round `values_f32[:count]` to the type of the PART and store them, the first as `start`.

    `start` counts from the first result of the PART. Returns whether every number is finite.
    """
    address = part.address
    code = part.code
    # The least magnitude that rounds to Inf: checked before rounding, where a loop is at hand.
    limit = u32(0x7F800000)
    if code == F16:
        limit = u32(0x477FF000)
        half = carray(pointer(address + np.uint64(2) * np.uint64(start)), count, np.uint16)
        for j in range(count):
            half[j] = store_f16(values_f32[j])
    elif code == BF16:
        limit = u32(0x7F7F8000)
        half = carray(pointer(address + np.uint64(2) * np.uint64(start)), count, np.uint16)
        for j in range(count):
            half[j] = f32_to_bf16_bits(values_f32[j])
    else:
        full = carray(pointer(address + np.uint64(4) * np.uint64(start)), count, np.float32)
        for j in range(count):
            full[j] = values_f32[j]
    highest = u32(0)
    for j in range(count):
        highest = u32(max(highest, magnitude_bits(values_f32[j])))
    return highest < limit


@njit(inline="always", error_model="numpy")
def all_finite(values_f32, count):
    """Whether none of `values_f32[:count]` is Inf or NaN."""
    highest = u32(0)
    for j in range(count):
        highest = u32(max(highest, magnitude_bits(values_f32[j])))
    return highest < u32(0x7F800000)


@kernel("void(tensor, int64, float32[::1])", **RECORDS)
def _widen(tensor, start, out_f32):
    widen_block(tensor, start, out_f32.size, out_f32)


@kernel("boolean(float32[::1], part)", **RECORDS)
def _narrow(values_f32, part):
    return narrow_block(values_f32, values_f32.size, part, 0)


@dataclass(frozen=True)
class RawTensor:
    """A tensor at rest: its little-endian bytes, and the code of their type."""

    raw_u8: np.ndarray
    code: int

    def part_f32(self, start: int, stop: int) -> np.ndarray:
        """Elements [start, stop) of the flattened tensor as float32, exactly."""
        out_f32 = np.empty(stop - start, np.float32)
        _widen(self.record, start, out_f32)
        return out_f32

    @property
    def record(self) -> np.void:
        """The TENSOR that kernels take; the caller keeps this object alive."""
        return records([self])[0]


def records(tensors: Sequence[RawTensor]) -> np.ndarray:
    """The tensors as kernels take them, TENSOR [m]; the caller keeps them alive."""
    return np.array([(tensor.raw_u8.ctypes.data, tensor.code) for tensor in tensors], TENSOR)


def part_of(
    begin: int, end: int, address: np.uint64, code: int, block: int = DEFAULT_BLOCK
) -> np.void:
    """The PART that a kernel computes in one call."""
    return np.array([(begin, end, address, code, block)], PART)[0]


def widen(raw_u8: np.ndarray, code: int, out_f32: np.ndarray) -> None:
    """Fill `out_f32` [n] with the first n numbers of type `code` in the bytes `raw_u8`, exactly."""
    _widen(RawTensor(raw_u8, code).record, 0, out_f32)


def narrow(values_f32: np.ndarray, code: int, out_u8: np.ndarray) -> bool:
    """Round `values_f32` [n] to type `code` into the bytes `out_u8`; False if one is Inf or NaN."""
    return bool(_narrow(values_f32, part_of(0, values_f32.size, address(out_u8), code)))
