"""Provenance, bill of materials and sums: valid, complete, and the same wherever they are made."""

from __future__ import annotations

import getpass
import hashlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from google.protobuf.json_format import ParseDict
from in_toto_attestation.predicates.provenance.v1.provenance_pb2 import Provenance
from in_toto_attestation.v1.statement import Statement
from in_toto_attestation.v1.statement_pb2 import Statement as Message

from remerge.errors import CheckpointError
from remerge.methods.gradient import Gradient, plan_gradient
from remerge.methods.ties import Donor, TiesSettings, plan_ties
from remerge.proof.lineage import graph, read_lineage, read_materials
from remerge.proof.provenance import write_provenance
from remerge.recipes.described import described, pins_of
from remerge.shards.artefact import build, companions_of
from remerge.tensors.checkpoint import open_checkpoint
from tests.proof.models import llama, save

ROOT = Path(__file__).parents[2]
REVISION = "4d963ea0" * 5
PARAMS: dict[str, Any] = {
    "recipe": {
        "name": "small",
        "title": "Small",
        "dtype": "float16",
        "shard_bytes": 10000,
        "licence": "CC0-1.0",
        "base": "models/base",
        "sources": {
            "base": {
                "kind": "model",
                "repo": "owner/base",
                "revision": REVISION,
                "licence": "a licence of its own",
                "files": {"model.safetensors": {"sha256": "ab" * 32, "size": 3}},
                "out": "models/base",
            },
            "donor": {
                "kind": "model",
                "path": "embedded/sources/donor",
                "files": {"model.safetensors": {"sha256": "cd" * 32, "size": 3}},
                "out": "models/donor",
            },
        },
        "loras": {},
        "parts": {
            part: {
                "d1": {"name": "donor", "path": "models/donor", "weight": 1.0, "density": None},
                "d2": {"name": None, "path": "conf/recipe/unused"},
            }
            for part in ("p1", "p2")
        },
    },
    "ties": {"density": 0.33, "lambda": 1.0, "normalize": True, "elect": "sum"},
    "gradient": {"values": [0.0, 1.0], "along": "tensors", "blend": "all", "containing": ""},
    "quantize": {"calibration": "embedded/calibration.txt", "measure": True},
    "eval": {"suite": "skills", "dtype": "float64", "data": "embedded/evaluation"},
    "quantize_eval": {
        "score": {
            "kind": "evaluate",
            "reads": "merged/final",
            "data": "embedded/evaluation",
            "out": "scores/final",
        },
        "gguf": {
            "kind": "quantize",
            "reads": "merged/final",
            "data": "embedded/calibration.txt",
            "also": "embedded/evaluation",
            "out": "quantized/gguf",
        },
    },
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished build of two real merges and a stand-in for a quantised file."""
    root = tmp_path_factory.mktemp("build")
    base = open_checkpoint(save(root / "models/base", llama(1)))
    donor = open_checkpoint(save(root / "models/donor", llama(2)))
    settings: dict[str, Any] = {"scratch": root / "scratch", "threads": 2}
    for part, density in (("p1", 0.2), ("p2", 0.4)):
        plan = plan_ties(
            base, [Donor(donor, density)], TiesSettings(), dtype="F16", shard_bytes=10000
        )
        build(plan, root / "merged" / part, companions=companions_of(base.folder), **settings)
    parts = [open_checkpoint(root / "merged" / part) for part in ("p1", "p2")]
    gradient = Gradient((0.0, 1.0), "tensors", "all", "")
    plan = plan_gradient(*parts, gradient, dtype="F16", shard_bytes=10000)
    build(plan, root / "merged/final", companions=companions_of(parts[0].folder), **settings)
    (root / "quantized/gguf").mkdir(parents=True)
    (root / "quantized/gguf/model.gguf").write_bytes(b"GGUF")
    manifest = {"class": "exact", "sha256": "12" * 32, "notes": ["a token without a row"]}
    (root / "quantized/gguf/manifest.json").write_text(json.dumps(manifest))
    return root


def write(root: Path, out: Path) -> dict[str, str]:
    materials = read_materials(ROOT, PARAMS)
    paths = write_provenance(read_lineage(root, PARAMS, materials=materials), out)
    return {name: path.read_text() for name, path in paths.items()}


@pytest.fixture(scope="module")
def texts(root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return write(root, tmp_path_factory.mktemp("out"))


def test_the_graph_follows_the_recipe() -> None:
    assert graph(PARAMS) == {
        "models/base": (),
        "models/donor": (),
        "merged/p1": ("models/base", "models/donor"),
        "merged/p2": ("models/base", "models/donor"),
        "merged/final": ("merged/p1", "merged/p2"),
        "quantized/gguf": ("merged/final",),
    }


def test_the_statement_is_in_toto_with_slsa_provenance(texts: dict[str, str]) -> None:
    content = json.loads(texts["provenance.json"])
    assert content["_type"] == "https://in-toto.io/Statement/v1"
    assert content["predicateType"] == "https://slsa.dev/provenance/v1"
    Statement.copy_from_pb(ParseDict(content, Message())).validate()
    ParseDict(content["predicate"], Provenance())  # raises for a field that SLSA does not have
    assert set(content["predicate"]["runDetails"]) == {"builder", "byproducts"}


def test_the_statement_names_every_file_and_every_source(texts: dict[str, str], root: Path) -> None:
    content = json.loads(texts["provenance.json"])
    subjects = {subject["name"] for subject in content["subject"]}
    files = [*(root / "merged/final").iterdir(), *(root / "quantized/gguf").iterdir()]
    assert subjects == {str(path.relative_to(root)) for path in files}
    dependencies = content["predicate"]["buildDefinition"]["resolvedDependencies"]
    by_name = {entry["name"]: entry for entry in dependencies}
    assert by_name["base"]["uri"] == f"pkg:huggingface/owner/base@{REVISION}"
    assert by_name["base"]["digest"]["gitCommit"] == REVISION
    assert by_name["base"]["annotations"]["files"] == {"model.safetensors": "ab" * 32}
    assert by_name["donor"]["uri"] == "urn:remerge:file:embedded/sources/donor"
    for entry in dependencies:
        assert re.match(r"[a-z][a-z0-9+.-]*:", entry.get("uri", "urn:")), entry
    deciding = {
        *("requirements/run.txt", "requirements/torch.txt"),
        *(
            "requirements/torch-cpu.txt",
            "src/remerge/methods/ties.py",
            "src/remerge/stages/quantize.py",
        ),
        *("embedded/calibration.txt", "embedded/evaluation/dates.jsonl"),
    }
    for name in deciding:
        digest = hashlib.sha256((ROOT / name).read_bytes()).hexdigest()
        assert by_name[name]["digest"] == {"sha256": digest}
    final = json.loads((root / "merged/final/manifest.json").read_text())["model_id"]
    byproducts = content["predicate"]["runDetails"]["byproducts"]
    assert {"modelId": final} in [entry["digest"] for entry in byproducts]
    chosen = content["predicate"]["buildDefinition"]["externalParameters"]
    assert chosen["ties"]["density"] == 0.33
    assert chosen["recipe"]["shard_bytes"] == 10000
    assert chosen["quantize"]["measure"] is True
    assert chosen["eval"]["dtype"] == "float64"
    assert list(chosen["recipe"]["parts"]["p1"]) == ["d1"]


def test_sha256sum_accepts_the_sums_and_finds_a_changed_byte(
    texts: dict[str, str], root: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(root, copy)
    (copy / "SHA256SUMS").write_text(texts["SHA256SUMS"])
    check = ["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"]
    assert subprocess.run(check, cwd=copy).returncode == 0
    (copy / "quantized/gguf/model.gguf").write_bytes(b"GGUf")
    found = subprocess.run(check, cwd=copy, capture_output=True, text=True)
    assert found.stdout == "quantized/gguf/model.gguf: FAILED\n"


def test_the_bill_of_materials_is_valid_and_says_what_is_made_of_what(
    texts: dict[str, str],
) -> None:
    text = texts["bom.cdx.json"]
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    content = json.loads(text)
    assert content["metadata"]["component"]["type"] == "machine-learning-model"
    edges = {entry["ref"]: entry.get("dependsOn", []) for entry in content["dependencies"]}
    assert edges["merged/final"] == ["merged/p1", "merged/p2"]
    assert edges["merged/p1"] == ["models/base", "models/donor"]
    base = next(c for c in content["components"] if c["bom-ref"] == "models/base")
    assert base["purl"] == f"pkg:huggingface/owner/base@{REVISION}"
    assert base["licenses"] == [{"license": {"name": "a licence of its own"}}]


def test_no_time_host_user_or_path_is_in_them(texts: dict[str, str], root: Path) -> None:
    everything = "".join(texts.values())
    assert not re.search(r"\b20\d\d-\d\d-\d\d", everything)
    assert not re.search(r"urn:uuid|BomRef", everything)
    for word in (socket.gethostname(), str(root), str(ROOT), str(Path.home()) + "/"):
        assert word not in everything
    assert f'"{getpass.getuser()}"' not in everything


def test_they_are_the_same_elsewhere_later_and_in_another_process(
    texts: dict[str, str], root: Path, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "else where"
    for path in sorted(root.rglob("*"), reverse=True):  # created in another order, at another time
        if path.is_file():
            target = elsewhere / path.relative_to(root)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
            os.utime(target, (1, 1))
    script = (
        "import sys; from pathlib import Path; from tests.proof.test_provenance import write; "
        "write(Path(sys.argv[1]), Path(sys.argv[2]))"
    )
    out = tmp_path / "out"
    environment = os.environ | {
        "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}",
        "PYTHONHASHSEED": "12345",
        "TZ": "Asia/Kathmandu",
        "NUMBA_NUM_THREADS": "1",
    }
    command = [sys.executable, "-c", script, str(elsewhere), str(out)]
    subprocess.run(command, env=environment, cwd=tmp_path, check=True)
    assert {name: (out / name).read_text() for name in texts} == texts


def test_the_report_is_made_again_when_anything_it_states_changes() -> None:
    """DVC must know every file that `report/provenance.json` gives the digest of."""
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    stage = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]["report"]

    def resolved(text: str) -> str:
        value: Any = params
        for key in text.removeprefix("${").removesuffix("}").split("."):
            value = value[key]
        return value

    deps = {Path(resolved(dep) if dep.startswith("$") else dep) for dep in stage["deps"]}
    for name in read_materials(ROOT, described(params, pins_of(params, ROOT / "conf" / "pins"))):
        assert deps & {Path(name), *Path(name).parents}, name
    assert {"recipe", "ties", "gradient", "quantize", "eval"} <= set(stage["params"])


def test_data_that_is_a_source_is_known_by_its_pins(tmp_path: Path) -> None:
    for name in ("src/a.py", "datasets/arc/test.jsonl", "datasets/own.jsonl"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    shutil.copytree(ROOT / "requirements", tmp_path / "requirements")
    params = {
        "recipe": {"sources": {"arc": {"kind": "dataset", "out": "datasets/arc"}}},
        "quantize_eval": {"score": {"kind": "evaluate", "data": "datasets"}},
    }
    named = set(read_materials(tmp_path, params))
    assert {"src/a.py", "datasets/own.jsonl", "requirements/run.txt"} <= named
    assert "datasets/arc/test.jsonl" not in named
    (tmp_path / "requirements/torch.txt").unlink()
    with pytest.raises(CheckpointError, match=r"torch\.txt"):
        read_materials(tmp_path, params)


def test_an_unfinished_build_has_no_provenance(root: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(root, copy)
    shutil.rmtree(copy / "quantized/gguf")
    with pytest.raises(CheckpointError, match="build it first"):
        read_lineage(copy, PARAMS, materials={})
