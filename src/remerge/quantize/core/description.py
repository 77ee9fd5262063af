"""What a file says about its model to the people who list it: license, base models, tags.

>>> read_description(Path("README.md")).license
'llama2'

The form is the head of a model card (https://huggingface.co/docs/hub/model-cards), which hubs and
llama.cpp's converter read as well. A model that nobody described is written as before: no key more.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from remerge.errors import RecipeError, printable
from remerge.yaml_text import parse_yaml

_HEAD_LIMIT = 1_000_000
_TEXT_LIMIT = 400
_LIST_LIMIT = 200


class Description(BaseModel):
    """What is known of a model besides its weights; a text may stand for a list of one.

    Attributes:
        license: Its license, as the hub calls it; `other` for one with a name of its own.
        license_name: That name.
        license_link: Where its text is.
        base_model: What the model was made of: ids of the hub.
        tags: What people search for.
        language: Its languages, by their codes.
    """

    # A card's head holds much else, scores for example.
    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")

    license: str | None = None
    license_name: str | None = None
    license_link: str | None = None
    base_model: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    language: tuple[str, ...] = ()

    @field_validator("license", "license_name", "license_link", mode="before")
    @classmethod
    def _text(cls, value: Any) -> Any:
        if value is not None and (not isinstance(value, str) or not _plain(value)):
            raise ValueError(f"expected one line of text of at most {_TEXT_LIMIT} characters")
        return value

    @field_validator("base_model", "tags", "language", mode="before")
    @classmethod
    def _texts(cls, value: Any) -> Any:
        listed = [value] if isinstance(value, str) else [] if value is None else value
        if (
            not isinstance(listed, (list, tuple))
            or len(listed) > _LIST_LIMIT
            or not all(isinstance(each, str) and _plain(each) for each in listed)
        ):
            raise ValueError(
                f"expected a list of at most {_LIST_LIMIT} texts of one line, {_TEXT_LIMIT} "
                "characters each"
            )
        return tuple(dict.fromkeys(listed))

    def says_nothing(self) -> bool:
        """Return whether nothing is known."""
        return self == Description()

    def known(self) -> dict[str, Any]:
        """Return what is known as a plain table, as it stands in a manifest."""
        return self.model_dump(mode="json", exclude_defaults=True)


def read_description(path: Path) -> Description:
    """Read the head of a model card: YAML between two lines `---` at its beginning.

    Raises:
        RecipeError: No card, no head, or an entry of the head that is of another form.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as opened:
            if not stat.S_ISREG(os.fstat(opened.fileno()).st_mode):
                raise ValueError("not a regular file")
            data = opened.read(_HEAD_LIMIT)
        first, *lines = data.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").split(b"\n")
        if first.rstrip() != b"---" or b"---" not in lines:
            raise ValueError("has no head; a card begins with YAML between two lines `---`")
        table = parse_yaml(b"\n".join(lines[: lines.index(b"---")]))
        if not isinstance(table, dict):
            raise ValueError("its head is no table")
    except OSError as error:
        raise RecipeError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise RecipeError(f"{path}: {printable(error, 300)}") from None
    return describe(table, str(path))


def describe(table: dict[str, Any], where: str) -> Description:
    """Read a description from a table; RecipeError for an entry of another form."""
    wanted = {key: value for key, value in table.items() if key in Description.model_fields}
    try:
        return Description.model_validate(wanted)
    except ValidationError as mistakes:
        first = mistakes.errors(include_url=False)[0]
        reason = first["msg"].removeprefix("Value error, ")
        raise RecipeError(f"{where}: {first['loc'][0]}: {reason}") from None


def _plain(text: str) -> bool:
    return len(text) <= _TEXT_LIMIT and text.isprintable() and bool(text.strip())
