"""The numbers that a ggjt file stands for: see `blocks.decoding`."""

from __future__ import annotations

from pathlib import Path

from remerge.quantize.blocks.decoding import file_weights
from remerge.quantize.core.forward import Weights
from remerge.quantize.core.llama import LlamaShape
from remerge.quantize.ggml.header import read_ggml_header
from remerge.quantize.ggml.write import FILE_NAME, tensor_name


def open_weights(folder: Path, shape: LlamaShape, model: Path) -> Weights:
    """The weights of a folder written by `ggml.write`; CheckpointError for a damaged file."""
    return file_weights(read_ggml_header(folder / FILE_NAME), tensor_name, shape)
