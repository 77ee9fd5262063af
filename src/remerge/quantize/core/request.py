"""What is asked of a container: one model, one format, and how the result presents itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from remerge.quantize.core.description import Description
from remerge.quantize.core.format import Format

if TYPE_CHECKING:
    from remerge.shards.artefact import MakeShards


@dataclass(frozen=True)
class Request:
    """`threads` changes the time, never a byte.

    `calibration` is a text for the formats that are fitted to one. `name` is what the file calls
    the model. `prompt` chooses its chat template: see `vocabulary.chat_template`. `description` is
    what else it says of the model, where the container has a place for it.

    `make_shards` makes the tensors of the exact formats, on a cluster for example; None: this
    process does. It changes no byte either. `scratch` is where it leaves them until they are used.
    """

    model: Path
    out: Path
    form: Format
    threads: int
    calibration: Path | None = None
    name: str = "model"
    prompt: str = "own"
    make_shards: MakeShards | None = None
    scratch: Path = Path("scratch")
    description: Description = field(default_factory=Description)
