"""Make the files that people run: GGUF, legacy GGML and GPTQ, and measure what they lost.

>>> from remerge.quantize import quantize
>>> quantize(Path("merged/final"), Path("quantized/gguf_q8_0"), "gguf_q8_0").bits_per_weight

`formats` lists what there is. Each container is a folder of its own (`gguf`, `ggml`, `gptq`) over
`core`, which knows the model, and `blocks`, the number types that GGUF and GGML share; no container
imports another, so that a change to one makes no file of another anew.
"""

from remerge.quantize.core.produce import quantize

__all__ = ["quantize"]
