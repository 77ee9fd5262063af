"""Which extra brings a package that the core does without.

The core of remerge merges, quantizes and checks models. A package that only some verbs need is
imported where it is used; when it is missing, `missing_extra` turns the ImportError into one line.
"""

from __future__ import annotations

from remerge.errors import ToolError

#: Extra of pyproject.toml → the modules that it brings.
EXTRAS: dict[str, tuple[str, ...]] = {
    "hub": ("httpcore", "httpx", "huggingface_hub", "ruamel"),
    "evaluate": ("datasets", "lm_eval", "peft", "pyarrow", "tokenizers", "torch", "transformers"),
    "sign": (
        "OpenSSL",
        "cryptography",
        "cyclonedx",
        "google",
        "in_toto_attestation",
        "model_signing",
        "packageurl",
    ),
    "pipeline": ("dvc", "hydra", "omegaconf"),
    "runtimes": ("compressed_tensors", "ctransformers", "xllamacpp"),
    "ray": ("ray",),
}


def missing_extra(error: ModuleNotFoundError) -> ToolError | None:
    """Return the error that names the extra to install, or None for a module that no extra brings.

    Args:
        error: What importing a package of an extra raised.
    """
    module = (error.name or "").partition(".")[0]
    extra = next((extra for extra, modules in EXTRAS.items() if module in modules), None)
    if extra is None:
        return None
    return ToolError(
        f"this needs {module}, which is not installed; it comes with an extra: "
        f"pip install 'remerge[{extra}]'"
    )
