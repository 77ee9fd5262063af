"""The GPTQ formats."""

from __future__ import annotations

from remerge.quantize.core.format import Format


def _row(
    bits: int, group: int, description: str, *, by_activation: bool = False, default: bool = False
) -> Format:
    shape = f"{bits}bit_{group}g" if group else f"{bits}bit"
    return Format(
        f"gptq_{shape}{'_actorder' if by_activation else ''}",
        "gptq",
        f"I{bits}",
        (),
        0,
        "transformers",
        "stable",
        description,
        default,
        group,
        by_activation,
    )


_ALL = (
    _row(8, 0, "a scale a row, fitted to a text"),
    _row(8, 0, "the same, the largest inputs first", by_activation=True),
    _row(8, 128, "groups of 128, fitted to a text"),
    _row(8, 128, "the same, the largest inputs first", by_activation=True),
    _row(4, 32, "groups of 32, fitted to a text"),
    _row(4, 32, "the same, the largest inputs first", by_activation=True),
    _row(4, 64, "groups of 64, fitted to a text"),
    _row(4, 64, "the same, the largest inputs first", by_activation=True),
    _row(4, 128, "groups of 128, fitted to a text", default=True),
    _row(4, 128, "the same, the largest inputs first", by_activation=True),
)
FORMATS: dict[str, Format] = {entry.name: entry for entry in _ALL}
