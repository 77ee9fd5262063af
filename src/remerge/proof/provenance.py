"""Where an artefact comes from, in the forms that others' tools read, with bytes that never vary.

>>> write_provenance(read_lineage(Path(), params, materials=materials), Path("report"))

Three files: `provenance.json`, an in-toto statement (v1) whose predicate is SLSA provenance v1;
`bom.cdx.json`, a CycloneDX bill of materials; `SHA256SUMS`, for `sha256sum --check` in the root of
the project. Like any other output they are a function of inputs and parameters: no time, host or
path is in them, so anybody's rebuild gives the same statement and can be compared with it.

The statement claims no trusted builder. What makes it true is that anybody can repeat the build.
docs/provenance.md says what each field means, as SLSA asks of a build type.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from remerge.files import write_text
from remerge.proof.bom import bom_text
from remerge.proof.lineage import Lineage
from remerge.tensors.json_files import json_text

PREDICATE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "urn:remerge:pipeline:v1"
BUILDER = "urn:remerge:anyone"
#: In front of the path of a file that lies in the repository of the recipe.
FILE_SCHEME = "urn:remerge:file:"

STATEMENT_NAME, BOM_NAME, SUMS_NAME = "provenance.json", "bom.cdx.json", "SHA256SUMS"


def write_provenance(lineage: Lineage, out: Path | str) -> dict[str, Path]:
    """Write the three files into the folder `out`; returns their paths by name."""
    out = Path(out)
    texts = {
        STATEMENT_NAME: statement_text(lineage),
        BOM_NAME: bom_text(lineage),
        SUMS_NAME: sums_text(lineage),
    }
    for name, text in texts.items():
        write_text(out / name, text)
    return {name: out / name for name in texts}


def sums_text(lineage: Lineage) -> str:
    """A line for each file of the artefacts, as `sha256sum` writes and checks them."""
    lines = [
        f"{digest}  {artefact.name}/{name}"
        for artefact in lineage.artefacts
        for name, digest in sorted(artefact.files.items())
    ]
    return "".join(line + "\n" for line in sorted(lines, key=lambda line: line[66:]))


def statement_text(lineage: Lineage) -> str:
    """The in-toto statement as JSON."""
    from google.protobuf.json_format import MessageToDict  # type: ignore[import-untyped]
    from in_toto_attestation.v1.statement import Statement

    subjects = [
        _descriptor(name=f"{artefact.name}/{name}", digest={"sha256": digest}).pb
        for artefact in lineage.artefacts
        for name, digest in sorted(artefact.files.items())
    ]
    statement = Statement(subjects, PREDICATE, _predicate(lineage))
    statement.validate()
    return json_text(_whole_numbers(MessageToDict(statement.pb)))


def _whole_numbers(value: Any) -> Any:
    """A protobuf Struct makes every number a float; 1000000.0 is 1000000 again."""
    if isinstance(value, dict):
        return {key: _whole_numbers(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_whole_numbers(entry) for entry in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _predicate(lineage: Lineage) -> dict[str, Any]:
    """SLSA provenance v1; `metadata`, which holds times and an invocation id, is left out."""
    from google.protobuf.json_format import MessageToDict
    from in_toto_attestation.predicates.provenance.v1.provenance_pb2 import Provenance

    provenance = Provenance()
    definition = provenance.build_definition
    definition.build_type = BUILD_TYPE
    definition.external_parameters.update(external_parameters(lineage))
    definition.resolved_dependencies.extend(d.pb for d in _dependencies(lineage))
    provenance.run_details.builder.id = BUILDER
    provenance.run_details.byproducts.extend(d.pb for d in _byproducts(lineage))
    return dict(MessageToDict(provenance))


def external_parameters(lineage: Lineage) -> dict[str, Any]:
    """What the recipe chose; the sources, which are dependencies, are left out."""
    recipe = {key: value for key, value in lineage.recipe.items() if key != "sources"}
    recipe["parts"] = {
        part: {k: d for k, d in places.items() if d.get("name") is not None}
        for part, places in recipe["parts"].items()
    }
    settings = ("ties", "gradient", "quantize", "eval")
    chosen = {key: lineage.params[key] for key in settings if key in lineage.params}
    formats = sorted(a.name for a in lineage.artefacts if a.name.startswith("quantized/"))
    return {"recipe": recipe, "formats": formats} | chosen


def _dependencies(lineage: Lineage) -> list[Any]:
    """Each source with revision and digests, then code, locks and data."""
    sources = []
    for name, entry in sorted(lineage.recipe["sources"].items()):
        digest = {"sha256": pins_digest(entry["files"])}
        if entry.get("repo"):
            uri = f"pkg:huggingface/{entry['repo']}@{entry['revision']}"
            digest["gitCommit"] = entry["revision"]
        else:
            uri = f"{FILE_SCHEME}{entry['path']}"
        files = {file: pin["sha256"] for file, pin in sorted(entry["files"].items())}
        annotations = {"files": files, "licence": str(entry.get("licence") or "")}
        sources.append(_descriptor(name=name, uri=uri, digest=digest, annotations=annotations))
    materials = [
        _descriptor(name=path, digest={"sha256": digest})
        for path, digest in lineage.materials.items()
    ]
    return [*sources, *materials]


def _byproducts(lineage: Lineage) -> list[Any]:
    """The models between sources and artefacts, and the artefacts themselves, by model id."""
    found = []
    for artefact in (*lineage.stages, *lineage.artefacts):
        manifest = artefact.manifest
        annotations: dict[str, Any] = {"class": str(manifest.get("class", ""))}
        if artefact.made_of:
            annotations["made of"] = list(artefact.made_of)
        if manifest.get("notes"):
            annotations["notes"] = [
                note if isinstance(note, str) else " ".join(part for part in note if part)
                for note in manifest["notes"]
            ]
        digest = {"modelId": artefact.model_id, "sha256": str(manifest.get("sha256", ""))}
        digest = {name: value for name, value in digest.items() if value}
        found.append(_descriptor(name=artefact.name, digest=digest, annotations=annotations))
    return found


def _descriptor(
    *,
    name: str,
    uri: str = "",
    digest: Mapping[str, str],
    annotations: Mapping[str, Any] | None = None,
) -> Any:
    from in_toto_attestation.v1.resource_descriptor import ResourceDescriptor

    descriptor = ResourceDescriptor(
        name=name, uri=uri, digest=dict(digest), annotations=dict(annotations or {})
    )
    descriptor.validate()
    return descriptor


def pins_digest(files: Mapping[str, Mapping[str, Any]]) -> str:
    """One SHA-256 for a source: that of its lines `digest  name`, as `sha256sum` writes them."""
    lines = [f"{pin['sha256']}  {name}\n" for name, pin in sorted(files.items())]
    return hashlib.sha256("".join(lines).encode()).hexdigest()
