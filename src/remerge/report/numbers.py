"""Numbers as the report, the card and the pictures write them."""

from __future__ import annotations

_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def coordinate(value: float) -> str:
    """A length or place in a picture, to a hundredth."""
    return f"{round(value, 2) + 0.0:g}"


def decimal(value: float, digits: int = 3) -> str:
    """A number for reading: `digits` significant digits, no exponent where it can be helped."""
    text = f"{value + 0.0:#.{digits}g}"
    if "e" not in text:
        return text.rstrip(".").replace("-", "−") if value else "0"
    mantissa, _, exponent = text.partition("e")
    if -5 <= int(exponent) < 7:
        places = max(0, digits - 1 - int(exponent))
        return f"{value:.{places}f}".replace("-", "−")
    power = str(int(exponent)).translate(_SUPERSCRIPTS)
    return f"{mantissa.replace('-', '−')}·10{power}"


def percent(fraction: float, digits: int = 1) -> str:
    """A fraction in percent, without the sign."""
    return f"{100 * fraction + 0.0:.{digits}f}".replace("-", "−")


def points(difference: float, digits: int = 1) -> str:
    """A difference of fractions in points of percent, with its sign."""
    shown = f"{round(100 * difference, digits) + 0.0:+.{digits}f}"
    return "±0" if float(shown) == 0 else shown.replace("-", "−")


def gain_or_loss(difference: float) -> str:
    """The class of a difference of fractions; empty where it is shown as none."""
    if points(difference) == "±0":
        return ""
    return "gain" if difference > 0 else "loss"


def size(count: int) -> str:
    """Bytes in decimal units."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= factor:
            return f"{count / factor:.2f} {unit}"
    return f"{count} B"
