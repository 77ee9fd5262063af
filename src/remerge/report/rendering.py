"""Pages and the card from the templates beside this module.

>>> render("page.html.j2", build=build)

Every value that a template prints passes through `printable`: control and bidirectional characters
are shown, secrets are not, the length is bounded. In HTML it is escaped as well, in Markdown it is
escaped by the filters `text` and `code`. So no name from an input can become markup.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from remerge.errors import printable
from remerge.report import markdown, numbers

_LONGEST = 400


def render(template: str, **values: Any) -> str:
    """Return the text of `template` filled with `values`.

    Args:
        template: Name of a file in `templates/`; `.html.j2` is escaped as HTML.
        values: What the template names; a name that is missing is an error.
    """
    return _environment(".html" in template).get_template(template).render(**values)


@cache
def _environment(html: bool) -> Environment:
    made = Environment(
        loader=PackageLoader("remerge.report"),
        autoescape=html,  # noqa: S701 - Markdown has filters of its own
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    for function in (
        numbers.coordinate,
        numbers.decimal,
        numbers.gain_or_loss,
        numbers.percent,
        numbers.points,
        numbers.size,
        markdown.code,
        markdown.text,
    ):
        made.filters[function.__name__] = function
    return made


def _shown(value: Any) -> Any:
    """A printed value: markup and what filters made are left alone, other text is bounded."""
    if isinstance(value, Markup | markdown.Markdown):
        return value
    return printable(value, _LONGEST)
