"""A number's class of colour is decided by comparisons, and every class can be reached."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from remerge.report.scale import CLASSES, around_zero, growing, linear

numbers = st.lists(st.floats(0, 1e6), min_size=1, max_size=30)


def test_the_ends_of_a_linear_scale_are_its_first_and_last_class() -> None:
    scale = linear(0.0, 1.0)
    assert scale.class_of(0.0) == "q0"
    assert scale.class_of(1.0) == f"q{CLASSES - 1}"
    assert scale.class_of(0.5) == "q4"


def test_zero_is_the_middle_of_a_scale_around_it() -> None:
    scale = around_zero([-0.5, 0.1])
    assert scale.class_of(-0.5) == "d0"
    assert scale.class_of(0.0) == "d4"
    assert scale.class_of(0.5) == "d8"


def test_magnitudes_are_parted_by_their_ratio() -> None:
    scale = growing([1e-4, 1e-2])
    assert scale.class_of(1e-2) == "q8"
    assert scale.class_of(1e-4) in ("q0", "q1", "q2")
    assert scale.class_of(0.0) == "q0"


@given(values=numbers)
def test_classes_follow_the_order_of_numbers(values: list[float]) -> None:
    for scale in (growing(values), around_zero(values), linear(0.0, max(values) or 1.0)):
        classes = [int(scale.class_of(value)[1:]) for value in sorted(values)]
        assert classes == sorted(classes)
        assert all(0 <= c < CLASSES for c in classes)
