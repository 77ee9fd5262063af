"""What a build was made of, read from its parameters and from what its stages wrote.

>>> lineage = read_lineage(Path(), params, materials={"requirements/run.txt": "9f86d0…"})
>>> [artefact.name for artefact in lineage.artefacts]
['merged/final', 'quantized/gguf_f16', …]

Names are folders within the project, digests are SHA-256. There is nothing here that two builds of
one commit could disagree on: no time, host, user or absolute path.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from remerge.errors import CheckpointError
from remerge.proof.digests import sha256_of_ranges, whole
from remerge.tensors.json_files import read_json

FINAL = "merged/final"


@dataclass(frozen=True)
class Artefact:
    """A folder that a stage made. `files` are SHA-256 by file name, `made_of` are folders."""

    name: str
    manifest: dict[str, Any]
    files: dict[str, str]
    made_of: tuple[str, ...]

    @property
    def model_id(self) -> str:
        """The id in its manifest; "" for what is no model of safetensors."""
        return str(self.manifest.get("model_id", ""))


@dataclass(frozen=True)
class Lineage:
    """A finished build and what it was made of.

    params     the parameters, composed
    artefacts  what was made to be published, files digested: the final model and its formats
    stages     what lies between sources and artefacts: name to (model id, inputs)
    materials  SHA-256 of everything else that decides a byte, by path: see `read_materials`
    """

    params: dict[str, Any]
    artefacts: tuple[Artefact, ...]
    stages: tuple[Artefact, ...]
    materials: dict[str, str]

    @property
    def recipe(self) -> dict[str, Any]:
        """The recipe among the parameters."""
        return dict(self.params["recipe"])


def graph(params: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """Every model folder of a recipe, in pipeline order, and the folders that it is made of."""
    recipe = params["recipe"]
    made_of: dict[str, tuple[str, ...]] = {s["out"]: () for s in recipe["sources"].values()}
    for lora in recipe["loras"].values():
        made_of[lora["out"]] = (lora["model"], lora["adapter"])
    for part, places in recipe["parts"].items():
        donors = [d["path"] for d in places.values() if d.get("name") is not None]
        made_of[f"merged/{part}"] = (recipe["base"], *donors)
    made_of[FINAL] = tuple(f"merged/{part}" for part in recipe["parts"])
    for entry in (params.get("quantize_eval") or {}).values():
        if entry["kind"] == "quantize":
            made_of[entry["out"]] = (entry["reads"],)
    return made_of


def read_lineage(
    root: Path | str,
    params: Mapping[str, Any],
    *,
    materials: Mapping[str, str],
    collected: Mapping[str, Mapping[str, Any]] | None = None,
    threads: int | None = None,
) -> Lineage:
    """Read manifests, and digest every file of the artefacts, under `root`.

    `collected` has both of folders that need not be read again (`report.collected`).
    CheckpointError if a folder that the parameters name was not built.
    """
    root = Path(root)
    made_of = graph(params)
    known = collected or {}
    sources = {source["out"] for source in params["recipe"]["sources"].values()}
    published = [n for n in made_of if n == FINAL or n.startswith("quantized/")]
    between = [n for n in made_of if n not in sources and n not in published]
    return Lineage(
        params=dict(params),
        artefacts=tuple(
            Artefact(n, known[n]["stated"], dict(known[n]["files"]), made_of[n])
            if n in known
            else _read(root, n, made_of[n], digest_files(root / n, threads))
            for n in published
        ),
        stages=tuple(_read(root, n, made_of[n], {}) for n in between),
        materials=dict(sorted(materials.items())),
    )


def _read(root: Path, name: str, made_of: Iterable[str], files: dict[str, str]) -> Artefact:
    return Artefact(name, read_json(root / name / "manifest.json"), files, tuple(made_of))


def digest_files(folder: Path, threads: int | None = None) -> dict[str, str]:
    """SHA-256 of every file under `folder` by its name there; CheckpointError if there is none."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    if not paths:
        raise CheckpointError(f"{folder}: holds no file; build it first (`dvc repro`)")
    digests = sha256_of_ranges([whole(path) for path in paths], threads, f"hash {folder.name}")
    return {str(p.relative_to(folder)): d for p, d in zip(paths, digests, strict=True)}


#: Suffixes of code: modules, and templates of the report.
_CODE = (".py", ".j2", ".css")
#: What is installed. `dvc.yaml`, on which DVC lets no stage depend, is left to the commit.
_LOCKS = ("requirements/run.txt", "requirements/torch.txt", "requirements/torch-cpu.txt")


def read_materials(root: Path | str, params: Mapping[str, Any]) -> dict[str, str]:
    """SHA-256 by path of what decides an artefact besides parameters and sources.

    All code, the locks of packages, and what `quantize_eval` reads besides models: calibration
    texts and evaluation data, unless they are sources, which have pins of their own.
    CheckpointError for a file that is not there.
    """
    root = Path(root)
    pinned = [Path(source["out"]) for source in params["recipe"]["sources"].values()]
    read = {
        Path(entry[key])
        for entry in (params.get("quantize_eval") or {}).values()
        for key in ("data", "also")
        if entry.get(key) and not entry[key].startswith("src/")
    }
    paths = {Path(name) for name in _LOCKS}
    paths |= {path.relative_to(root) for path in (root / "src").rglob("*") if path.suffix in _CODE}
    for name in read:
        inside = [path.relative_to(root) for path in (root / name).rglob("*") if path.is_file()]
        data = inside if (root / name).is_dir() else [name]
        paths |= {path for path in data if not any(path.is_relative_to(out) for out in pinned)}
    ordered = sorted(paths)
    digests = sha256_of_ranges([whole(root / path) for path in ordered], 1)
    return {path.as_posix(): digest for path, digest in zip(ordered, digests, strict=True)}
