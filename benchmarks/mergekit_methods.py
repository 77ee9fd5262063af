"""Every merge method beside mergekit, tensor by tensor, in float32.

    DIR/bin/python benchmarks/mergekit_methods.py INPUT.npz OUTPUT.npz

Run by `tests/methods/test_mergekit.py`. INPUT holds float32 tensors, and `jobs`: a JSON list of
`{name, method, base, models, parameters, masks}`; OUTPUT gets the result of each by name. For
random methods INPUT holds the masks `mask:NAME:i`, and mergekit draws them instead of its own. Only
numpy, torch and mergekit are imported here. mergekit wants an environment of its own:
`python -m venv DIR; DIR/bin/pip install mergekit==0.1.5 torch==2.13.0`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import numpy as np


def draw_from(masks: Iterator[Any]) -> Any:
    """A stand-in for torch.bernoulli that hands out given masks."""

    def bernoulli(probabilities: Any) -> Any:
        return next(masks).reshape(probabilities.shape).to(probabilities.dtype)

    return bernoulli


def main() -> None:
    """Run all jobs of INPUT."""
    # By name: mergekit is in this program's own environment and no dependency of the project.
    torch, merge_methods, sparsify, base = map(
        import_module,
        ("torch", "mergekit.merge_methods", "mergekit.sparsify", "mergekit.merge_methods.base"),
    )

    given = np.load(sys.argv[1])
    results = {}
    for job in json.loads(str(given["jobs"])):
        method = merge_methods.get(job["method"])
        names = ([job["base"]] if job["base"] else []) + job["models"]
        entries = tuple(
            base.TensorEntry(
                id=n, tensor=torch.from_numpy(given[n].copy()), is_base=n == job["base"]
            )
            for n in names
        )
        masks = [given[f"mask:{job['name']}:{i}"] for i in range(job["masks"])]
        if masks:
            sparsify.torch = _Patched(torch, draw_from(iter(map(torch.from_numpy, masks))))
        donors = [entry for entry in entries if not entry.is_base]
        parameters = {}
        for spec in method.spec.parameters:
            value = job["parameters"].get(spec.name, spec.default)
            if spec.scope.value != "shared":
                of = entries if spec.scope.value == "input" else donors
                each = value if isinstance(value, list) else [value] * len(of)
                pairs = zip(of, each, strict=True)
                value = base.PerInputValues([(entry.id, v) for entry, v in pairs])
            parameters[spec.name] = value
        group = base.TensorGroup(entries=entries)
        (result,) = method._execute_resolved((group,), [parameters], dtype=None, out_dtype=None)
        results[job["name"]] = result.numpy()
        sparsify.torch = torch
    np.savez(sys.argv[2], **results)


class _Patched:
    """torch, but for its draws."""

    def __init__(self, torch: Any, bernoulli: Any) -> None:
        self._torch = torch
        self.bernoulli = bernoulli

    def __getattr__(self, name: str) -> Any:
        return getattr(self._torch, name)


if __name__ == "__main__":
    main()
