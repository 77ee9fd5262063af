"""HTML and SVG from elements: text is escaped unless it is Markup, so no name can become code.

>>> element("p", "a < b", class_="note")
'<p class="note">a &lt; b</p>'
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from html import escape

from remerge.errors import printable

#: Elements without content or end tag in HTML.
_VOID = {"br", "col", "hr", "meta"}


class Markup(str):
    """Text that is already HTML."""

    __slots__ = ()


Child = str | int | None


def safe_text(text: object, limit: int = 400) -> str:
    """`text` for a place between tags: bounded, control and bidirectional characters shown."""
    return escape(printable(text, limit), quote=True)


def element(tag: str, *children: Child, **attributes: str | float | None) -> Markup:
    """One element. Children that are no Markup are escaped, as are attributes; None is left out.

    An underscore in an attribute's name stands for a hyphen, one at its end for nothing
    (`class_`, `aria_label`, `viewBox`).
    """
    shown = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{_attribute(value)}"'
        for name, value in attributes.items()
        if value is not None
    )
    if tag in _VOID:
        return Markup(f"<{tag}{shown}>")
    inner = "".join(
        child if isinstance(child, Markup) else safe_text(child)
        for child in children
        if child is not None
    )
    return Markup(f"<{tag}{shown}>{inner}</{tag}>")


def _attribute(value: str | float) -> str:
    if isinstance(value, Markup):
        return value
    return safe_text(value) if isinstance(value, str) else coordinate(value)


def join(*parts: Markup | None) -> Markup:
    """Elements one after the other."""
    return Markup("".join(part for part in parts if part is not None))


def table(
    head: Sequence[Child],
    rows: Sequence[Markup],
    *,
    texts: Collection[str] = (),
    caption: str = "",
    kind: str | None = None,
) -> Markup:
    """A table that scrolls sideways where it is wider than the screen.

    head   column headings, none for a table without; those in `texts` stand to the left
    rows   elements `tr`
    kind   class of the table
    """
    columns = [
        element("th", heading, scope="col", class_="text" if heading in texts else None)
        for heading in head
    ]
    made = element(
        "table",
        element("caption", caption) if caption else None,
        element("thead", element("tr", *columns)) if columns else None,
        element("tbody", *rows),
        class_=kind,
    )
    return element("div", made, class_="scroll")


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
    return f"{mantissa}·10^{int(exponent)}".replace("-", "−")


def percent(fraction: float, digits: int = 1) -> str:
    """A fraction in percent, without the sign."""
    return f"{100 * fraction + 0.0:.{digits}f}".replace("-", "−")


def points(difference: float, digits: int = 1) -> str:
    """A difference of fractions in points of percent, with its sign."""
    shown = f"{round(100 * difference, digits) + 0.0:+.{digits}f}"
    return "±0" if float(shown) == 0 else shown.replace("-", "−")


def size(count: int) -> str:
    """Bytes in decimal units."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= factor:
            return f"{count / factor:.2f} {unit}"
    return f"{count} B"
