"""Make the files that people run: GGUF, legacy GGML and GPTQ, and measure what they lost.

`formats` lists what there is and costs nothing to import; `gguf`, `ggml` and `gptq` each write one
container through a function `quantize`; `perplexity` compares a file with the model that it came
from; `runtimes` runs it where people run it.
"""
