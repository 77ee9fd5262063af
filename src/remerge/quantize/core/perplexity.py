"""What a quantized model lost: perplexity, divergence and agreement with the model it came from.

>>> measure(Path("merged/final"), Path("quantized/gguf_q4_k_m"), Path("text.txt")).perplexity

Both models run in float64 on the weights that the file stands for, so the numbers, rounded as they
are, are the same on every machine (class *stable*). What a runtime adds by computing in less is not
in them; the tests bound it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from remerge.errors import CheckpointError
from remerge.progress import track
from remerge.quantize.core.corpus import read_passages
from remerge.quantize.core.forward import log_probabilities
from remerge.quantize.core.llama import LlamaShape, read_shape
from remerge.quantize.core.weights import checkpoint_weights, quantized_weights
from remerge.tensors.checkpoint import read_config
from remerge.tensors.json_files import read_json, write_json

#: Tokens in a window and windows of a plain text that are read.
WINDOW_LENGTH, WINDOWS = 256, 32


@dataclass(frozen=True)
class Quality:
    """Means over `tokens` predicted tokens.

    `perplexity` and `reference_perplexity`: exp of the mean negative log-likelihood, quantized and
    unquantized. `divergence`: Kullback-Leibler, unquantized from quantized, in nats. `agreement`:
    share of tokens for which both would choose the same next one.
    """

    tokens: int
    perplexity: float
    reference_perplexity: float
    divergence: float
    agreement: float


def _shape_of(model_folder: Path) -> LlamaShape:
    """The shape of a model; CheckpointError, which says what to do, if it cannot be measured."""
    try:
        return read_shape(read_config(model_folder), str(model_folder))
    except CheckpointError as error:
        raise CheckpointError(
            f"{error}; what a format lost can be measured for plain Llamas only: leave out "
            "--measure, or set quantize.measure=false"
        ) from None


def check_measurable(model_folder: Path, texts: Sequence[Path]) -> None:
    """Raise what `measure` would for a model and texts, from config and tokenizer alone."""
    shape = _shape_of(model_folder)
    read_passages(model_folder, texts, shape.vocabulary, min(WINDOW_LENGTH, shape.context), WINDOWS)


def add_quality(model_folder: Path, quantized_folder: Path, texts: Sequence[Path]) -> None:
    """Measure a format and write the result into its manifest."""
    manifest = quantized_folder / "manifest.json"
    # Threads of a matrix product only hinder one another on models this small.
    with threadpool_limits(1):
        quality = measure(model_folder, quantized_folder, texts)
    write_json(manifest, {**read_json(manifest), **asdict(quality)})


def measure(
    model_folder: Path | str,
    quantized_folder: Path | str,
    texts: Path | str | Sequence[Path | str],
    *,
    windows: int = WINDOWS,
    length: int = WINDOW_LENGTH,
) -> Quality:
    """Compare `quantized_folder` with the `model_folder` it was made from, on one text or several.

    For what is read of a text see `corpus`; no passage sees the one before. Perplexities are
    rounded to 4 decimals, divergence to 6, agreement to 4.
    """
    model_folder, quantized_folder = Path(model_folder), Path(quantized_folder)
    files = [Path(texts)] if isinstance(texts, str | Path) else [Path(text) for text in texts]
    shape = _shape_of(model_folder)
    length = min(length, shape.context)
    passages = read_passages(model_folder, files, shape.vocabulary, length, windows)
    ids = [passage.ids for passage in passages]
    tokens, same = 0, 0
    loss = reference_loss = divergence = 0.0
    steps = 2 * shape.layers + len(passages)
    with track(steps, f"measuring {quantized_folder.name}", unit="step") as bar:

        def passed() -> None:
            bar.advance(1)

        original = log_probabilities(shape, checkpoint_weights(model_folder, shape), ids, passed)
        quantized = quantized_weights(quantized_folder, shape, model_folder)
        rounded = log_probabilities(shape, quantized, ids, passed)
        for passage, before, after in zip(passages, original, rounded, strict=True):
            following = passage.ids[passage.first :]
            # Row i is about token i + 1.
            before, after = (rows[passage.first - 1 : -1] for rows in (before, after))
            places = np.arange(len(following))
            reference_loss -= float(before[places, following].sum())
            loss -= float(after[places, following].sum())
            divergence += float((np.exp(before) * (before - after)).sum())
            same += int((before.argmax(axis=1) == after.argmax(axis=1)).sum())
            tokens += len(places)
            bar.advance(1)
    return Quality(
        tokens,
        round(float(np.exp(loss / tokens)), 4),
        round(float(np.exp(reference_loss / tokens)), 4),
        # What rounds to −0.0 is 0.
        round(divergence / tokens, 6) + 0.0,
        round(same / tokens, 4),
    )
