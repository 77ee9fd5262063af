"""Tables for `dvc plots`: one row a mark, numbers as the manifests have them.

>>> plots(build)["blend"][0]
{'layer': None, 'position': 0, 'ratio': 0.0, 'tensor': 'model.embed_tokens.weight'}

Vega-Lite templates for them lie in `.dvc/plots`.
"""

from __future__ import annotations

from typing import Any

from remerge.report.build import Build, place_of
from remerge.report.merging import ratios_of, sizes_of, statistics_of, ties_donors
from remerge.report.sizes import quality_of

Rows = list[dict[str, Any]]


def plots(build: Build) -> dict[str, Rows]:
    """All tables by name; a table without rows is there and empty."""
    return {
        "scores": _scores(build),
        "formats": _formats(build),
        "blend": _blend(build),
        "task_vectors": _task_vectors(build),
        "cosines": _cosines(build),
    }


def _scores(build: Build) -> Rows:
    """Percent by model and task."""
    return [
        {"model": model.name, "role": model.role, "task": task, "score": round(100 * value, 2)}
        for model in build.scored
        for task in [*build.tasks, "mean"]
        if (value := model.score(task)) is not None
    ]


def _formats(build: Build) -> Rows:
    """Size, bits a weight and, where measured, what was lost by format."""
    rows = []
    for name, manifest in build.formats.items():
        row = {
            "format": name,
            "megabytes": round(manifest["size"] / 1e6, 3),
            "bits_per_weight": manifest["bits_per_weight"],
        }
        quality = quality_of(manifest)
        row |= {k: quality[k] for k in ("perplexity", "divergence", "agreement") if k in quality}
        rows.append(row)
    return rows


def _blend(build: Build) -> Rows:
    """The second part's share by tensor."""
    return [
        {"position": position, "tensor": name, "layer": place_of(name)[0], "ratio": ratio}
        for position, (name, ratio) in enumerate(ratios_of(build.final).items())
    ]


def _task_vectors(build: Build) -> Rows:
    """By part, tensor and donor: norm, share kept, contribution, and the tensor's sign conflict."""
    rows = []
    for part in ("p1", "p2"):
        manifest = build.merges.get(part, {"tensors": {}, "order": [], "parameters": {}})
        counts = sizes_of(manifest)
        for name, found in statistics_of(manifest).items():
            layer, kind = place_of(name)
            for index, donor in enumerate(ties_donors(manifest)):
                rows.append(
                    {
                        "part": part,
                        "tensor": name,
                        "layer": layer,
                        "kind": kind,
                        "donor": donor["model"],
                        "norm": found["norms"][index],
                        "kept": round(found["kept"][index] / max(1, counts[name]), 4),
                        "contribution": found["contributions"][index],
                        "conflict": found["conflict"],
                    }
                )
    return rows


def _cosines(build: Build) -> Rows:
    """By part and tensor the cosine of each two donors' task vectors."""
    rows = []
    for part in ("p1", "p2"):
        manifest = build.merges.get(part, {"tensors": {}, "order": [], "parameters": {}})
        names = [str(donor["model"]) for donor in ties_donors(manifest)]
        pairs = [f"{a} · {b}" for i, a in enumerate(names) for b in names[i + 1 :]]
        for name, found in statistics_of(manifest).items():
            layer, kind = place_of(name)
            rows += [
                {
                    "part": part,
                    "tensor": name,
                    "layer": layer,
                    "kind": kind,
                    "pair": pair,
                    "cosine": cosine,
                }
                for pair, cosine in zip(pairs, found["cosines"], strict=True)
            ]
    return rows
