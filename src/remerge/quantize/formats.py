"""What a model can be quantized to, by name.

>>> FORMATS["gguf_q4_k_m"].container
'gguf'
>>> [entry.name for entry in choose(["exact", "gptq_4bit_128g"])]
['gguf_f16', …, 'ggml_q8_0', 'gptq_4bit_128g']

Each container keeps its own rows, so that what writes one depends on none of the others. Which of
them the pipeline makes by default is said in `conf/quantize`.
"""

from __future__ import annotations

from collections.abc import Sequence

from remerge.errors import RecipeError
from remerge.quantize.core.format import Format, one_of
from remerge.quantize.ggml.formats import FORMATS as GGML
from remerge.quantize.gguf.formats import FORMATS as GGUF
from remerge.quantize.gptq.formats import FORMATS as GPTQ

#: Every format by its name, in the order in which tables show them.
FORMATS: dict[str, Format] = {**GGUF, **GGML, **GPTQ}


def choose(names: Sequence[str]) -> tuple[Format, ...]:
    """The formats meant by names; ``all`` and ``exact`` (those of that class) stand for several.

    RecipeError for a name that is no format, and for a format that is named twice.
    """
    chosen: list[Format] = []
    for name in names:
        if name in ("all", "exact"):
            chosen += [each for each in FORMATS.values() if name in ("all", each.class_)]
        else:
            chosen.append(one_of(FORMATS, name))
    for position, entry in enumerate(chosen):
        if entry in chosen[:position]:
            raise RecipeError(f"{entry.name} is named twice")
    return tuple(chosen)
