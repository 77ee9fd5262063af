"""A model is who it is by its weights: neither files nor order nor threads have a say in it."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from remerge import cli
from remerge.errors import CheckpointError
from remerge.proof.check import check_folder
from remerge.proof.digests import identify
from remerge.proof.models import open_weights, read_bytes
from remerge.quantize import quantize
from remerge.quantize.ggml.header import read_ggml_header
from remerge.quantize.gguf.header import read_gguf_header
from remerge.tensors.checkpoint import open_checkpoint, read_config, read_f32
from tests.proof.models import flip_bit, llama, save, save_gguf


def id_by_definition(tensors: dict[str, tuple[str, np.ndarray]]) -> str:
    lines = [
        json.dumps(
            [name, dtype, list(a.shape), hashlib.sha256(a.tobytes()).hexdigest()],
            ensure_ascii=False,
            separators=(",", ":"),
        )
        for name, (dtype, a) in sorted(tensors.items(), key=lambda entry: entry[0].encode())
    ]
    return hashlib.sha256("".join(line + "\n" for line in lines).encode()).hexdigest()


@pytest.mark.parametrize("dtype", ["F16", "BF16", "F32"])
def test_the_id_is_what_its_definition_says(tmp_path: Path, dtype: str) -> None:
    tensors = llama(1, dtype)
    assert identify(save(tmp_path / "model", tensors)).model_id == id_by_definition(tensors)


@pytest.mark.parametrize("shard_bytes", [1, 5000, 20000])
def test_other_shards_other_order_same_id(tmp_path: Path, shard_bytes: int) -> None:
    tensors = llama(1)
    whole = identify(save(tmp_path / "whole", tensors))
    reversed_order = dict(reversed(tensors.items()))
    cut = identify(save(tmp_path / "cut", reversed_order, shard_bytes), threads=3)
    assert cut.model_id == whole.model_id
    assert cut.tensors == whole.tensors


def test_one_flipped_bit_another_id(tmp_path: Path) -> None:
    folder = save(tmp_path / "model", llama(1))
    before = identify(folder)
    info = open_weights(folder).tensors["model.norm.weight"]
    flip_bit(info.path, info.offset + info.nbytes - 1)
    after = identify(folder)
    assert after.model_id != before.model_id
    changed = [name for name in before.tensors if before.tensors[name] != after.tensors[name]]
    assert changed == ["model.norm.weight"]


def test_a_name_a_type_and_a_shape_are_part_of_the_id(tmp_path: Path) -> None:
    bits = np.arange(6, dtype="<u2").reshape(2, 3)
    ids = {
        identify(save(tmp_path / str(i), {name: (dtype, bits.reshape(shape))})).model_id
        for i, (name, dtype, shape) in enumerate(
            [("a", "F16", (2, 3)), ("b", "F16", (2, 3)), ("a", "BF16", (2, 3)), ("a", "F16", (6,))]
        )
    }
    assert len(ids) == 4


def test_an_adapter_and_a_single_file_have_ids(tmp_path: Path) -> None:
    folder = save(tmp_path / "model", llama(1))
    single = identify(folder / "model.safetensors").model_id
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
    assert identify(folder).model_id == single


def test_a_gguf_has_the_id_of_its_own_tensors(tmp_path: Path) -> None:
    values = llama(2, "F32")
    tensors = {
        "blk.0.attn_q.weight": ("Q8_0", values["model.layers.0.self_attn.q_proj.weight"][1]),
        "blk.0.attn_norm.weight": values["model.layers.0.input_layernorm.weight"],
        "output.weight": ("F16", values["lm_head.weight"][1].astype("<f2")),
    }
    path = save_gguf(tmp_path / "model.gguf", tensors)
    read = read_gguf_header(path)
    reference = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    assert list(read) == list(reference)
    for name, info in read.items():
        assert info.dtype == reference[name].tensor_type.name
        assert info.shape == tuple(int(n) for n in reference[name].shape[::-1])
        assert info.offset == reference[name].data_offset
        assert info.nbytes == reference[name].n_bytes
    digests = {n: hashlib.sha256(t.data.tobytes()).hexdigest() for n, t in reference.items()}
    assert identify(path).tensors == digests
    other_metadata = save_gguf(tmp_path / "other.gguf", tensors, tokens=7)
    assert identify(other_metadata).model_id == identify(path).model_id
    assert (
        identify(tmp_path / "model.gguf").model_id
        != identify(save(tmp_path / "f", llama(2))).model_id
    )


@pytest.fixture(scope="module")
def some_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "model.gguf"
    tensors = {"a": llama(1, "F32")["model.norm.weight"], "b": llama(1)["lm_head.weight"]}
    return save_gguf(path, tensors)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_damaged_gguf_header_is_refused_in_one_line_or_read(
    some_gguf: Path, data: st.DataObject
) -> None:
    """Whatever an untrusted file says, no length leads outside of it."""
    whole = some_gguf.read_bytes()
    table_end = read_gguf_header(some_gguf)["a"].offset
    position = data.draw(st.integers(0, table_end - 1))
    value = data.draw(st.sampled_from([0, 1, 0x7F, 0x80, 0xFF]))
    damaged = some_gguf.with_name("damaged.gguf")
    damaged.write_bytes(whole[:position] + bytes([value]) + whole[position + 1 :])
    said = ""
    try:
        for info in read_gguf_header(damaged).values():
            assert 0 < info.offset <= info.offset + info.nbytes <= len(whole)
    except CheckpointError as error:
        said = str(error)
    assert "\n" not in said


def test_a_truncated_gguf_is_refused(tmp_path: Path) -> None:
    path = save_gguf(tmp_path / "model.gguf", {"a": llama(1, "F32")["lm_head.weight"]})
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match="does not lie where it can"):
        identify(path)


def save_pickles(folder: Path, tensors: dict[str, tuple[str, np.ndarray]]) -> Path:
    """Two pickles and their index, as models were published in 2023; one tensor is transposed."""
    folder.mkdir()
    names = list(tensors)
    weight_map = {}
    for number, half in enumerate([names[:5], names[5:]], 1):
        file = f"pytorch_model-{number:05}-of-00002.bin"
        held = {name: torch.from_numpy(tensors[name][1].copy()) for name in half}
        held[half[0]] = held[half[0]].T.contiguous().T
        torch.save(held, folder / file)
        weight_map |= dict.fromkeys(half, file)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


def test_pickles_have_the_id_of_their_weights(tmp_path: Path) -> None:
    tensors = llama(1)
    folder = save_pickles(tmp_path / "pickles", tensors)
    assert identify(folder, threads=2).model_id == id_by_definition(tensors)
    one = folder / "pytorch_model-00001-of-00002.bin"
    assert identify(one).model_id == id_by_definition(dict(list(tensors.items())[:5]))
    (folder / "pytorch_model.bin.index.json").write_text(
        json.dumps({"weight_map": {"x": one.name}})
    )
    with pytest.raises(CheckpointError, match=r"tensor '.*' is (in no file|not in the index)"):
        identify(folder)


EMBEDDED = Path(__file__).parents[2] / "embedded"


@pytest.fixture(scope="module")
def quantized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of the embedded family in the three containers."""
    root = tmp_path_factory.mktemp("quantized")
    for name in ("gguf_q8_0", "gguf_q4_0", "ggml_q5_1", "gptq_4bit_128g"):
        text = EMBEDDED / "calibration.txt"
        quantize(EMBEDDED / "sources/sorting", root / name, name, calibration=text)
    return root


def test_every_container_of_ours_has_an_id(quantized: Path, capsys: pytest.CaptureFixture) -> None:
    folders = sorted(quantized.iterdir())
    assert cli.main(["id", *map(str, folders)]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[1] for line in shown] == [str(folder) for folder in folders]
    assert len({line.split("  ")[0] for line in shown}) == len(folders)
    assert cli.main(["diff", *[str(quantized / "gptq_4bit_128g")] * 2]) == 0


def test_their_manifests_say_who_they_are_and_what_they_are_made_of(
    quantized: Path, tmp_path: Path
) -> None:
    calibration = hashlib.sha256((EMBEDDED / "calibration.txt").read_bytes()).hexdigest()
    for folder in quantized.iterdir():
        manifest = json.loads((folder / "manifest.json").read_text())
        identity = identify(folder)
        assert manifest["model_id"] == identity.model_id
        assert {n: t["sha256"] for n, t in manifest["tensors"].items()} == identity.tensors
        assert manifest["inputs"] == {"sorting": {}}  # a folder that has no manifest itself
        fitted = folder.name.startswith("gptq")
        assert manifest["parameters"].get("calibration_sha256") == (calibration if fitted else None)
        assert check_folder(folder, expect=identity.model_id).as_expected
    source = tmp_path / "final"
    shutil.copytree(EMBEDDED / "sources/sorting", source)
    (source / "manifest.json").write_text(json.dumps({"model_id": "12" * 32, "files": {}}))
    quantize(source, tmp_path / "gguf_f16", "gguf_f16")
    manifest = json.loads((tmp_path / "gguf_f16/manifest.json").read_text())
    assert manifest["inputs"] == {"final": {"model_id": "12" * 32}}
    assert manifest["parameters"] == {"method": "quantize", "name": "model", "prompt": "own"}


def test_a_ggml_file_is_read_as_its_writer_wrote_it(quantized: Path, tmp_path: Path) -> None:
    path = quantized / "ggml_q5_1/model.ggml"
    infos = read_ggml_header(path)
    layers = read_config(EMBEDDED / "sources/sorting")["num_hidden_layers"]
    source = open_checkpoint(EMBEDDED / "sources/sorting").tensors
    assert len(infos) == len(source) == 9 * layers + 3
    norm = read_f32(source["model.norm.weight"])
    assert read_bytes(infos["norm.weight"]).tobytes() == norm.tobytes()
    last = list(infos.values())[-1]
    assert last.offset + last.nbytes == path.stat().st_size
    (tmp_path / "model.bin").write_bytes(path.read_bytes())
    assert identify(tmp_path / "model.bin") == identify(path)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_damaged_ggml_is_refused_in_one_line_or_read(
    quantized: Path, data: st.DataObject
) -> None:
    path = quantized / "ggml_q5_1/model.ggml"
    whole = path.read_bytes()
    infos = list(read_ggml_header(path).values())
    heads = [*range(200), *range(infos[0].offset - 60, infos[0].offset)]
    heads += range(infos[1].offset - 60, infos[1].offset)
    position = data.draw(st.sampled_from(heads))
    value = data.draw(st.sampled_from([0, 1, 0x7F, 0x80, 0xFF]))
    end = data.draw(st.sampled_from([len(whole), len(whole) - 1, infos[1].offset - 1, 37, 35, 0]))
    damaged = path.with_name("damaged.bin")
    damaged.write_bytes((whole[:position] + bytes([value]) + whole[position + 1 :])[:end])
    said = ""
    try:
        for info in read_ggml_header(damaged).values():
            assert 0 < info.offset <= info.offset + info.nbytes <= len(whole)
    except CheckpointError as error:
        said = str(error)
    finally:
        damaged.unlink()
    assert "\n" not in said


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nothing", "dvc pull"),
        ("a.txt", "expected a model folder"),
        ("a.bin", "not a torch archive"),
        ("d", "holds no"),
    ],
)
def test_what_is_no_model_is_refused_in_a_line(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / "a.bin").write_bytes(b"x")
    (tmp_path / "a.txt").write_bytes(b"x")
    (tmp_path / "d").mkdir()
    with pytest.raises(CheckpointError, match=said):
        identify(tmp_path / name)


def test_the_command_prints_ids_and_checks_one(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    a, b = str(save(tmp_path / "a", llama(1))), str(save(tmp_path / "b", llama(2)))
    ids = [identify(a).model_id, identify(b).model_id]
    assert cli.main(["id", a, b]) == 0
    assert capsys.readouterr().out == f"{ids[0]}  {a}\n{ids[1]}  {b}\n"
    assert cli.main(["id", "--json", "--tensors", a]) == 0
    assert json.loads(capsys.readouterr().out)[a]["tensors"] == identify(a).tensors
    assert cli.main(["id", a, "--expect", ids[0]]) == 0
    assert cli.main(["id", a, "--expect", ids[1]]) == 1
