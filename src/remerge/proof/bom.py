"""A bill of materials of a build (CycloneDX 1.6): which models it is made of, and how.

The library invents a serial number, a time and random references unless it is told otherwise: two
builds of one commit would then differ. References here are the folders' names, and serial number
and time, which the specification leaves optional, are left out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from remerge.proof.lineage import FINAL, Artefact, Lineage, graph
from remerge.tensors.json_files import json_text

if TYPE_CHECKING:
    from cyclonedx.model.component import Component


def bom_text(lineage: Lineage) -> str:
    """The bill of materials as JSON."""
    from cyclonedx.model.bom import Bom, BomMetaData
    from cyclonedx.output.json import JsonV1Dot6

    edges = graph(lineage.params)
    by_name = {artefact.name: artefact for artefact in (*lineage.stages, *lineage.artefacts)}
    components = {
        entry["out"]: _source(name, entry) for name, entry in lineage.recipe["sources"].items()
    }
    for name, artefact in by_name.items():
        components[name] = _made(artefact, lineage.recipe)
    final = components.pop(FINAL)
    bom = Bom(metadata=BomMetaData(component=final), components=components.values())
    for name, made_of in edges.items():
        target = final if name == FINAL else components[name]
        bom.register_dependency(target, [_of(components, final, part) for part in made_of])
    content = json.loads(JsonV1Dot6(bom).output_as_string())
    content.pop("serialNumber", None)
    content["metadata"].pop("timestamp", None)
    return json_text(content)


def _of(components: Mapping[str, Component], final: Component, name: str) -> Component:
    return final if name == FINAL else components[name]


def _source(name: str, entry: Mapping[str, Any]) -> Component:
    from cyclonedx.model import ExternalReference, ExternalReferenceType, XsUri
    from cyclonedx.model.component import Component, ComponentType
    from packageurl import PackageURL

    kinds = {"dataset": ComponentType.DATA}
    reference, url = [], None
    if entry.get("repo"):
        owner, _, repo = entry["repo"].partition("/")
        url = PackageURL("huggingface", owner, repo, entry["revision"])
        site = XsUri(f"https://huggingface.co/{entry['repo']}")
        reference = [ExternalReference(type=ExternalReferenceType.DISTRIBUTION, url=site)]
    return Component(
        name=name,
        type=kinds.get(entry["kind"], ComponentType.MACHINE_LEARNING_MODEL),
        bom_ref=entry["out"],
        version=entry.get("revision") or None,
        purl=url,
        licenses=_licences(entry.get("licence")),
        external_references=reference,
        components=[
            _file(entry["out"], file, pin["sha256"]) for file, pin in entry["files"].items()
        ],
    )


def _made(artefact: Artefact, recipe: Mapping[str, Any]) -> Component:
    from cyclonedx.model import Property
    from cyclonedx.model.component import Component, ComponentType

    final = artefact.name == FINAL
    properties = {"remerge:class": str(artefact.manifest.get("class", ""))}
    if artefact.model_id:
        properties["remerge:model_id"] = artefact.model_id
    return Component(
        name=str(recipe["title"]) if final else artefact.name,
        type=ComponentType.MACHINE_LEARNING_MODEL,
        bom_ref=artefact.name,
        version=artefact.model_id or str(artefact.manifest.get("sha256", "")) or None,
        licenses=_licences(recipe.get("licence")),
        properties=[Property(name=name, value=value) for name, value in properties.items()],
        components=[_file(artefact.name, f, d) for f, d in artefact.files.items()],
    )


def _file(folder: str, name: str, sha256: str) -> Component:
    from cyclonedx.model import HashAlgorithm, HashType
    from cyclonedx.model.component import Component, ComponentType

    return Component(
        name=name,
        type=ComponentType.FILE,
        bom_ref=f"{folder}/{name}",
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=sha256)],
    )


def _licences(text: object) -> list[Any]:
    from cyclonedx.model.license import DisjunctiveLicense
    from cyclonedx.spdx import is_supported_id

    if not text:
        return []
    known = is_supported_id(str(text))
    return [DisjunctiveLicense(id=str(text)) if known else DisjunctiveLicense(name=str(text))]
