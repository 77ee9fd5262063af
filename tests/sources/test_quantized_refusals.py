"""A quantized source that is not dequantized, or not whole, is refused in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from remerge.cli import main
from remerge.errors import RemergeError, SourceError
from remerge.recipes.pins import Pin, digest
from remerge.sources.files import open_files
from remerge.sources.intake import take_in_model
from remerge.sources.preflight import describe_model
from tests.sources import quantized_models as made
from tests.sources.conftest import HURRY, Pinned
from tests.sources.hub_server import HubServer
from tests.sources.quantized_models import Tensors

FP8 = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [16, 16]}
Q = "model.layers.0.self_attn.q_proj"
INT8 = {"num_bits": 8, "type": "int", "strategy": "channel", "symmetric": True}


def fp8(folder: Path) -> Path:
    return made.quantized(folder, made.fp8_blocks(16, 16), FP8)


def int8(folder: Path) -> Path:
    """compressed-tensors, a byte a number and a scale a row."""

    def quantize(name: str, weight: torch.Tensor) -> Tensors:
        scale = weight.float().abs().amax(1, keepdim=True) / 127
        values = (weight.float() / scale).round().to(torch.int8)
        return {name: values, f"{name}_scale": scale.bfloat16()}

    config = {
        "quant_method": "compressed-tensors",
        "format": "int-quantized",
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": INT8}},
    }
    return made.quantized(folder, quantize, config)


def packed(folder: Path) -> Path:
    """compressed-tensors, 8 numbers of 4 bits a word, groups of 16 with zero points."""

    def quantize(name: str, weight: torch.Tensor) -> Tensors:
        rows, columns = weight.shape
        module = name.removesuffix(".weight")
        return {
            f"{module}.weight_packed": torch.full((rows, columns // 8), 0x12345678).int(),
            f"{module}.weight_scale": torch.full((rows, columns // 16), 0.01).bfloat16(),
            f"{module}.weight_zero_point": torch.zeros(rows // 8, columns // 16).int(),
            f"{module}.weight_g_idx": torch.full((columns,), -1).int(),
            f"{module}.weight_shape": torch.tensor([rows, columns]),
        }

    weights = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 16}
    config = {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "config_groups": {
            "group_0": {"targets": ["Linear"], "weights": weights | {"symmetric": False}}
        },
    }
    return made.quantized(folder, quantize, config)


def nf4(folder: Path) -> Path:
    """bitsandbytes, as it stores double quantization, in bytes that pose as bfloat16."""
    from remerge.sources.quantized.bnb import _TABLES

    state = {
        "quant_type": "nf4",
        "blocksize": 64,
        "dtype": "bfloat16",
        "nested_blocksize": 256,
        "nested_dtype": "float32",
        "nested_offset": 0.5,
    }

    def quantize(name: str, weight: torch.Tensor) -> Tensors:
        blocks = -(-weight.numel() // 64)
        text = json.dumps(state | {"shape": list(weight.shape)}).encode()
        return {
            name: torch.zeros(weight.numel() // 4, 1).bfloat16(),
            f"{name}.absmax": torch.zeros(blocks, dtype=torch.uint8),
            f"{name}.quant_map": torch.from_numpy(_TABLES["nf4"].copy()),
            f"{name}.nested_absmax": torch.ones(1),
            f"{name}.nested_quant_map": torch.linspace(-1, 1, 256),
            f"{name}.quant_state.bitsandbytes__nf4": torch.tensor(list(text), dtype=torch.uint8),
        }

    return made.quantized(folder, quantize, {"quant_method": "bitsandbytes", "load_in_4bit": True})


def llm_int8(folder: Path) -> Path:
    """bitsandbytes, int8."""

    def quantize(name: str, weight: torch.Tensor) -> Tensors:
        module = name.removesuffix("weight")
        return {
            name: torch.ones_like(weight, dtype=torch.int8),
            f"{module}SCB": torch.ones(len(weight)),
            f"{module}weight_format": torch.zeros((), dtype=torch.uint8),
        }

    return made.quantized(folder, quantize, {"quant_method": "bitsandbytes", "load_in_8bit": True})


def mxfp4(folder: Path) -> Path:
    """gpt_oss."""
    settings = {"hidden_size": 64, "intermediate_size": 32, "head_dim": 16}
    made.quantized(folder, lambda n, w: {n: w}, {"quant_method": "mxfp4"}, "gpt_oss", **settings)

    def change(tensors: Tensors) -> None:
        for name in [n for n in tensors if n.endswith(("gate_up_proj", "down_proj"))]:
            experts, columns, rows = tensors.pop(name).shape
            shape = (experts, rows, columns // 32, 16)
            tensors[f"{name}_blocks"] = torch.zeros(shape, dtype=torch.uint8)
            tensors[f"{name}_scales"] = torch.full(shape[:-1], 120, dtype=torch.uint8)

    made.change_tensors(folder, change)
    return folder


MAKERS: dict[str, Callable[[Path], Path]] = {
    "fp8": fp8,
    "int8": int8,
    "packed": packed,
    "nf4": nf4,
    "llm_int8": llm_int8,
    "mxfp4": mxfp4,
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A sound checkpoint of each kind."""
    return {name: make(tmp_path_factory.mktemp(name) / "m") for name, make in MAKERS.items()}


def copied(folder: Path, tmp_path: Path) -> Path:
    target = tmp_path / "m"
    target.mkdir(parents=True)
    for path in folder.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    return target


@pytest.mark.parametrize("kind", MAKERS)
def test_quantized_source_is_refused_with_the_option(
    kind: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(RemergeError, match=r"quantized .*set `dequantize: true` on it"):
        made.taken_in(copied(folders[kind], tmp_path), dequantize=False)


@pytest.mark.parametrize("kind", MAKERS)
def test_every_number_of_threads_gives_the_same_bytes(
    kind: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = copied(folders[kind], tmp_path)
    one, four = (made.taken_in(folder, threads=n, out=str(n)) for n in (1, 4))
    names = sorted(path.name for path in one.iterdir())
    assert names == sorted(path.name for path in four.iterdir())
    for name in names:
        assert (one / name).read_bytes() == (four / name).read_bytes()


def drop(end: str) -> Callable[[Tensors], object]:
    return lambda tensors: tensors.pop(Q + end)


def put(end: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Tensors], object]:
    def changed(tensors: Tensors) -> None:
        tensors[Q + end] = change(tensors[Q + end]).contiguous()

    return changed


def add(name: str, tensor: torch.Tensor) -> Callable[[Tensors], object]:
    return lambda tensors: tensors.update({name: tensor})


def with_nan(tensor: torch.Tensor) -> torch.Tensor:
    changed = tensor.clone()
    changed.reshape(-1)[0] = float("nan")
    return changed


def said(**changes: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    """A quant_state with other entries."""

    def change(tensor: torch.Tensor) -> torch.Tensor:
        text = json.loads(bytes(tensor.tolist())) | changes
        return torch.tensor(list(json.dumps(text).encode()), dtype=torch.uint8)

    return change


STATE = ".weight.quant_state.bitsandbytes__nf4"
#: The kind of checkpoint, what is changed in its tensors, and what is said of it.
DAMAGE: list[tuple[str, Callable[[Tensors], object], str]] = [
    ("fp8", drop(".weight_scale_inv"), "q_proj.weight' is F8_E4M3 and has no scale"),
    ("fp8", drop(".weight"), "q_proj.weight_scale_inv' .* belongs to a quantized weight"),
    ("fp8", put(".weight_scale_inv", lambda s: s[:1]), r"shape \[1, 2\]; expected \[2, 2\]"),
    ("fp8", put(".weight_scale_inv", with_nan), "q_proj.weight_scale_inv': entry 0 is nan"),
    ("fp8", put(".weight_scale_inv", lambda s: s.double()), "is F64; expected F16 or BF16"),
    ("fp8", put(".weight", lambda w: w.float().mul(0).add(float("nan")).to(w.dtype)), "is NaN or"),
    ("fp8", put(".weight", lambda w: w.reshape(-1)), r"has shape \[1024\]; a quantized weight is"),
    (
        "fp8",
        put(".weight_scale_inv", lambda s: s + 3e38),
        "to BF16, entry .* too large",
    ),
    ("fp8", add(Q + ".weight_scale", torch.ones(1)), "is F8_E4M3 and has two scales"),
    ("fp8", add(Q + ".weight_packed", torch.zeros(2, 2).int()), "in a way that fp8 .* does not"),
    ("fp8", add("model.x.weight", torch.zeros(2, 2, dtype=torch.int8)), "in a way that fp8 as"),
    ("fp8", put(".weight", lambda w: w.bfloat16()), "weight_scale_inv' .* belongs to a quantized"),
    ("int8", drop(".weight_scale"), "q_proj.weight_scale' is missing"),
    ("int8", put(".weight_scale", lambda s: s[:, 0:0]), "is of no scheme that config.json has"),
    ("int8", put(".weight_scale", lambda s: s.expand(-1, 4)), "8-bit integers by channel"),
    ("int8", put(".weight", lambda w: w.bfloat16()), "weight_scale' .* belongs to a quantized"),
    ("int8", put(".weight", lambda w: w.to(torch.float8_e4m3fn)), "is of no scheme"),
    ("int8", put(".weight_scale", with_nan), "entry 0 is nan"),
    ("packed", drop(".weight_shape"), "q_proj.weight_shape' is missing"),
    ("packed", drop(".weight_scale"), "q_proj.weight_scale' is missing"),
    ("packed", drop(".weight_zero_point"), "is missing, and config.json says that there are zero"),
    ("packed", drop(".weight_packed"), "belongs to a quantized weight"),
    ("packed", put(".weight_shape", lambda s: s - 1), "is of no scheme"),
    ("packed", put(".weight_shape", lambda s: s - 100), "which is no shape"),
    ("packed", put(".weight_shape", lambda s: s[:1]), r"has shape \[1\]; expected \[2\]"),
    ("packed", put(".weight_packed", lambda w: w[:, :-1]), "is of no scheme"),
    ("packed", put(".weight_packed", lambda w: w.long()), "is I64; expected I32"),
    (
        "packed",
        put(".weight_zero_point", lambda z: z[:1]),
        r"has shape \[1, 2\]; expected \[4, 2\]",
    ),
    ("packed", put(".weight_g_idx", lambda g: g + 5), "does not put 16 columns into each of 2"),
    ("packed", put(".weight_g_idx", lambda g: g + 2**31 - 1), "does not put 16 columns into each"),
    ("packed", put(".weight_g_idx", lambda g: g[:-1]), r"expected \[32\]"),
    ("packed", add(Q + ".weight", torch.zeros(32, 32).bfloat16()), "is stored twice"),
    ("nf4", drop(STATE), "q_proj.weight.nested_absmax' belongs to a quantized weight"),
    ("nf4", drop(".weight.absmax"), "q_proj.weight.absmax' is missing"),
    ("nf4", drop(".weight.quant_map"), "q_proj.weight.quant_map' is missing"),
    ("nf4", drop(".weight.nested_absmax"), "nested_absmax' is missing"),
    ("nf4", drop(".weight"), "q_proj.weight' is missing"),
    ("nf4", put(STATE, lambda s: s[:-1]), "not valid JSON"),
    ("nf4", put(STATE, said(quant_type="nf5")), "no known form of 4 bits"),
    ("nf4", put(STATE, said(quant_type="fp4")), "no known form of 4 bits"),
    ("nf4", put(STATE, said(blocksize=48)), "no known form of 4 bits"),
    ("nf4", put(STATE, said(shape=[32, 64])), r"expected 1024 bytes for a weight of \[32, 64\]"),
    ("nf4", put(STATE, said(shape=[-32, -32])), "no known form of 4 bits"),
    ("nf4", put(STATE, said(shape="x")), "no known form of 4 bits"),
    ("nf4", put(STATE, said(nested_offset=1e39)), "no known form of 4 bits"),
    ("nf4", put(STATE, said(nested_offset=None)), "no known form of 4 bits"),
    ("nf4", put(STATE, lambda s: s.repeat(1000)), "expected a short text"),
    ("nf4", put(".weight.quant_map", lambda m: m + 0.1), "holds other numbers than nf4 has"),
    ("nf4", put(".weight.nested_absmax", with_nan), "entry 0 is nan"),
    ("nf4", put(".weight.absmax", lambda a: a[:-1]), r"has shape \[15\]; expected \[16\]"),
    ("nf4", put(".weight", lambda w: w[:-1]), "expected 512 bytes for a weight"),
    ("llm_int8", drop(".SCB"), "q_proj.SCB' is missing"),
    ("llm_int8", put(".SCB", lambda s: s[:-1]), r"has shape \[31\]; expected \[32\]"),
    ("llm_int8", put(".weight_format", lambda f: f + 2), "is 2; only weights in rows"),
    ("llm_int8", put(".SCB", with_nan), "entry 0 is nan"),
    ("mxfp4", lambda t: t.pop(EXPERTS + "_scales"), "gate_up_proj_scales' is missing"),
    ("mxfp4", lambda t: t.pop(EXPERTS + "_blocks"), "belongs to a quantized weight"),
    (
        "mxfp4",
        lambda t: t.update({EXPERTS + "_scales": t[EXPERTS + "_scales"][:1].clone()}),
        r"gate_up_proj_scales' has shape \[1, 64, 2\]; expected \[4, 64, 2\]",
    ),
    ("mxfp4", lambda t: t[EXPERTS + "_scales"].fill_(255), "is 255, which is NaN"),
    (
        "mxfp4",
        lambda t: t.update({EXPERTS + "_blocks": t[EXPERTS + "_blocks"][..., :8].clone()}),
        r"expected \[experts, rows, groups, 16\]",
    ),
]
EXPERTS = "model.layers.0.mlp.experts.gate_up_proj"


@pytest.mark.parametrize(
    ("kind", "change", "says"), DAMAGE, ids=[f"{i}-{kind}" for i, (kind, *_) in enumerate(DAMAGE)]
)
def test_damaged_tensors_are_named(
    kind: str,
    change: Callable[[Tensors], object],
    says: str,
    folders: dict[str, Path],
    tmp_path: Path,
) -> None:
    folder = copied(folders[kind], tmp_path)
    made.change_tensors(folder, change)
    with pytest.raises(RemergeError, match=says) as refused:
        made.taken_in(folder)
    assert str(refused.value).startswith("source 'donor'")
    assert not (tmp_path / "plain").exists()


CONFIGS: list[tuple[str, dict[str, Any], str]] = [
    *[
        ("fp8", {"quant_method": method}, f"quantized with {method}, which cannot be dequantized")
        for method in ("gptq", "awq", "hqq", "quanto", "torchao", "eetq", "aqlm", "new_method")
    ],
    ("mxfp4", {"quant_method": "fp8"}, "_blocks' .* in a way that fp8 as|none of its tensors is"),
    ("fp8", {"quant_method": "bitsandbytes"}, "none of its tensors is"),
    ("fp8", {"quant_method": "mxfp4"}, "MXFP4 is read as gpt_oss stores it"),
    ("fp8", {"quant_method": None}, "quantized with unknown"),
    ("fp8", {"weight_block_size": [128]}, r"weight_block_size is \[128\]; expected two sizes"),
    ("fp8", {"weight_block_size": [32, 32]}, "a scale for each 32 x 32 block"),
    ("fp8", {"weight_block_size": None}, "expected a scale a tensor or a row"),
    ("int8", {"config_groups": {}}, "has no config_groups"),
    ("int8", {"format": "nvfp4-pack-quantized"}, "format 'nvfp4-pack-quantized' cannot be"),
    ("int8", {"format": "marlin-24"}, "format 'marlin-24' cannot be dequantized here"),
    ("int8", {"sparsity_config": {"format": "sparse-24-bitmask"}}, "sparse weights cannot be read"),
    ("int8", {"transform_config": {"config_groups": {"u": {}}}}, "its weights are rotated"),
    ("int8", {"ignore": [Q]}, "is quantized, and config.json ignores its module"),
    ("int8", {"config_groups": {"g": {"weights": INT8 | {"num_bits": 3}}}}, "numbers of 3 bits"),
    ("int8", {"config_groups": {"g": {"weights": INT8 | {"strategy": "x"}}}}, "no known scheme"),
    ("int8", {"config_groups": {"g": {"weights": INT8 | {"symmetric": 1}}}}, "no known scheme"),
    ("int8", {"config_groups": {"g": {"weights": None}}}, "has no table `weights`"),
    ("int8", {"config_groups": {"g": {"weights": INT8 | {"strategy": "block"}}}}, "no pair"),
    ("packed", {"quant_method": "fp8"}, "weight_packed' .* in a way that fp8|none of its tensors"),
]


@pytest.mark.parametrize(
    ("kind", "changes", "says"), CONFIGS, ids=[f"{i}-{k}" for i, (k, *_) in enumerate(CONFIGS)]
)
def test_configs_that_say_something_else_are_refused(
    kind: str, changes: dict[str, Any], says: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = copied(folders[kind], tmp_path)
    quantization = json.loads((folder / "config.json").read_text())["quantization_config"]
    made.change_config(folder, quantization_config=quantization | changes)
    with pytest.raises(RemergeError, match=says):
        made.taken_in(folder)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"dtype": None, "torch_dtype": None}, "does not say the type of its weights"),
        ({"dtype": "float8_e4m3fn"}, "weights are float8_e4m3fn; dequantized ones are float16"),
        ({"quantization_config": None}, "config.json has no quantization_config that says how"),
    ],
)
def test_configs_without_what_is_needed_are_refused(
    changes: dict[str, Any], says: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = copied(folders["fp8"], tmp_path)
    made.change_config(folder, **changes)
    with pytest.raises(RemergeError, match=says):
        made.taken_in(folder)


def test_the_recipe_may_name_the_type(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = copied(folders["fp8"], tmp_path)
    made.change_config(folder, dtype=None)
    plain = made.taken_in(folder, config={"dtype": "float32"})
    assert made.weights_of(plain)[f"{Q}.weight"].dtype == torch.float32


def test_plain_source_needs_no_dequantizing(tmp_path: Path) -> None:
    folder = made.quantized(tmp_path / "m", lambda n, w: {n: w}, None)
    with pytest.raises(RemergeError, match="are not quantized; leave `dequantize` out"):
        made.taken_in(folder)
    made.change_config(folder, quantization_config=FP8)  # left over beside plain weights
    plain = made.taken_in(folder, dequantize=False)
    assert "quantization_config" not in json.loads((plain / "config.json").read_text())


def test_only_scales_of_activations_are_dropped(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = copied(folders["fp8"], tmp_path)
    kept, dropped = "model.layers.0.block_scale", "model.layers.0.self_attn.k_scale"
    made.change_tensors(folder, lambda t: t.update({kept: torch.ones(1), dropped: torch.ones(1)}))
    names = made.weights_of(made.taken_in(folder)).keys()
    assert kept in names and dropped not in names


def test_adapters_are_not_dequantized(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "adapter_config.json").write_text("{}")
    with pytest.raises(SourceError, match="dequantize is for models; it is of kind adapter"):
        made.source_of(tmp_path / "a", kind="adapter")


def test_source_on_a_hub_is_described_by_ranges(
    folders: dict[str, Path], hub: HubServer, pinned: Pinned, tmp_path: Path
) -> None:
    """The shape of a 4-bit weight stands in a small tensor between others."""
    for kind in ("nf4", "packed"):
        source = pinned(hub.add_folder(f"some/{kind}", folders[kind]), dequantize=True)
        hub.requests.clear()
        with open_files(source, root=tmp_path, scratch=tmp_path / "s", delivery=HURRY) as files:
            found = describe_model(files)
            whole = [r.path for r in hub.requests if r.path.endswith("s") and not r.byte_range]
            assert whole == []
            assert found.weights[f"{Q}.weight"].shape == (32, 32)
            assert "quantization_config" not in found.config
            there = tmp_path / f"there-{kind}"
            take_in_model(files, there, scratch=tmp_path / "s", shard_bytes=20_000, threads=4)
        here = made.taken_in(copied(folders[kind], tmp_path / kind))
        made.require_same_bits(made.weights_of(there), made.weights_of(here))


def test_pin_of_a_plain_source_keeps_its_digest(folders: dict[str, Path]) -> None:
    source = made.source_of(folders["fp8"])
    files = {name: {"sha256": pin.sha256, "size": pin.size} for name, pin in source.files.items()}
    entry = {"kind": "model", "path": source.path, "files": files}
    plain, again, dequantized = (
        digest("x", Pin.model_validate(entry | more))
        for more in ({}, {"dequantize": False}, {"dequantize": True})
    )
    assert plain == again != dequantized


def test_verbs_refuse_or_dequantize(
    folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain, base = tmp_path / "plain", tmp_path / "base"
    made.quantized(base, lambda n, w: {n: w}, None)
    nf4_folder = str(folders["nf4"])
    assert main(["dequantize", nf4_folder, "--out", str(plain)]) == 0
    ids = []
    for verb in (
        ["ties", str(base), "QUANTIZED", "--dtype", "bfloat16"],
        ["gradient", str(base), "QUANTIZED", "0", "1", "--dtype", "bfloat16"],
    ):
        for number, (folder, options) in enumerate(
            [(nf4_folder, ["--dequantize"]), (str(plain), [])]
        ):
            out = tmp_path / f"{verb[0]}{number}"
            command = [folder if word == "QUANTIZED" else word for word in verb]
            assert main([*command, "--out", str(out), *options]) == 0
            ids.append(json.loads((out / "manifest.json").read_text())["model_id"])
        refused = [nf4_folder if word == "QUANTIZED" else word for word in verb]
        capsys.readouterr()
        assert main([*refused, "--out", str(tmp_path / "no")]) == 1
        assert "weights are quantized (bitsandbytes); give --dequantize" in capsys.readouterr().err
    assert ids[0] == ids[1] and ids[2] == ids[3]
    config = tmp_path / "m.yml"
    models = "".join(f"- model: {m}\n  parameters: {{weight: 1}}\n" for m in (base, nf4_folder))
    config.write_text(f"merge_method: linear\ndtype: bfloat16\nmodels:\n{models}")
    assert main(["merge", str(config), str(tmp_path / "no")]) == 1
    assert main(["merge", str(config), str(tmp_path / "merged"), "--dequantize"]) == 0
    assert not list((tmp_path / ".scratch").glob("dequantized-*"))
