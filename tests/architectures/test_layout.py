"""Donors whose files name or divide tensors otherwise than the base's merge as if they did not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from remerge.architectures.names import inner_name
from remerge.cli import main
from remerge.tensors.json_files import read_json, write_json
from tests.architectures import models

Tensors = dict[str, torch.Tensor]


def save(row: str, folder: Path, seed: int = 0) -> Path:
    model = models.build(row)
    if seed:
        models.perturbed(model, seed, 0.05)
    model.save_pretrained(folder)
    return folder


def changed(source: Path, folder: Path, change: Callable[[Tensors], Tensors]) -> Path:
    """A copy of a model whose tensors are those that `change` gives."""
    folder.mkdir()
    write_json(folder / "config.json", read_json(source / "config.json"))
    tensors = change(load_file(source / "model.safetensors"))
    whole = {name: tensor.clone().contiguous() for name, tensor in tensors.items()}
    save_file(whole, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def merged(*folders: Path, out: str, verb: tuple[str, ...] = ("ties",)) -> dict:
    """The manifest of a merge of these folders."""
    target = folders[0].parent / out
    kind, *rest = verb
    words = [kind, *map(str, folders), *rest, "--out", str(target), "--dtype", "float32"]
    assert main(words) == 0
    return read_json(target / "manifest.json")


def fused_experts(row: str) -> Callable[[Tensors], Tensors]:
    """The names and tensors that transformers holds in memory."""

    def change(tensors: Tensors) -> Tensors:
        found: Tensors = {}
        stacked: dict[str, dict[int, Tensors]] = {}
        parts = {"w1": "gate_proj", "w2": "down_proj", "w3": "up_proj"}
        for name, tensor in tensors.items():
            words = name.replace("block_sparse_moe", "mlp").split(".")
            if "experts" not in words:
                found[".".join(words)] = tensor
                continue
            at = words.index("experts")
            part = parts.get(words[at + 2], words[at + 2])
            place = stacked.setdefault(".".join(words[: at + 1]), {})
            place.setdefault(int(words[at + 1]), {})[part] = tensor
        for place, experts in stacked.items():
            each = [experts[number] for number in range(len(experts))]
            both = [torch.cat([e["gate_proj"], e["up_proj"]]) for e in each]
            found[f"{place}.gate_up_proj"] = torch.stack(both)
            found[f"{place}.down_proj"] = torch.stack([e["down_proj"] for e in each])
        assert found.keys() == models.build(row).state_dict().keys()
        return found

    return change


def split_rows(tensors: Tensors) -> Tensors:
    """Phi-3 with the modules of Llama: four heads of eight, two of them of keys and values."""
    found: Tensors = {}
    for name, tensor in tensors.items():
        if "qkv_proj" in name:
            for part, rows in zip("qkv", tensor.split([32, 16, 16]), strict=True):
                found[name.replace("qkv_proj", f"{part}_proj")] = rows
        elif "gate_up_proj" in name:
            for part, rows in zip(("gate", "up"), tensor.split(48), strict=True):
                found[name.replace("gate_up_proj", f"{part}_proj")] = rows
        else:
            found[name] = tensor
    return found


LAYOUTS = [
    ("mixtral", fused_experts("mixtral")),
    ("phi3", split_rows),
    pytest.param("qwen3_moe", fused_experts("qwen3_moe"), marks=pytest.mark.full),
    pytest.param("deepseek_v3", fused_experts("deepseek_v3"), marks=pytest.mark.full),
]


@pytest.mark.parametrize("verb", [("ties",), ("gradient", "0", "1")])
@pytest.mark.parametrize(("row", "change"), LAYOUTS)
def test_layouts_are_converted_to_that_of_the_first(
    tmp_path: Path, row: str, change: Callable[[Tensors], Tensors], verb: tuple[str, ...]
) -> None:
    base, donor = save(row, tmp_path / "base"), save(row, tmp_path / "donor", 1)
    other_base, other_donor = (
        changed(folder, tmp_path / f"{folder.name} changed", change) for folder in (base, donor)
    )
    if row == "phi3":  # its parts are another architecture's
        for folder in (other_base, other_donor):
            path = folder / "config.json"
            write_json(path, read_json(path) | {"model_type": "llama"})
    for first, same, other in ((base, donor, other_donor), (other_base, other_donor, donor)):
        expected = merged(first, same, out=f"{first.name} as it is", verb=verb)
        found = merged(first, other, out=f"{first.name} converted", verb=verb)
        assert found["model_id"] == expected["model_id"] and found["order"] == expected["order"]
        assert any("parts" in text for _, _, text in found["notes"])
        assert not any("parts" in text for _, _, text in expected["notes"])
    models.load(tmp_path / "base as it is")
    models.load(tmp_path / "base changed as it is")
    assert not list((tmp_path / ".scratch").glob("vocabulary-*"))


def masks(tensors: Tensors) -> Tensors:
    return {f"h.{i}.attn.bias": torch.tril(torch.ones(1, 1, 8, 8)) for i in range(2)} | {
        name.removeprefix("transformer."): tensor for name, tensor in tensors.items()
    }


def prefixed(prefix: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {prefix + name: tensor for name, tensor in tensors.items()}


RENAMED = {
    "hub's gpt2": masks,
    "torch.compile": prefixed("_orig_mod."),
    "DataParallel": prefixed("module."),
    "both": prefixed("module._orig_mod."),
    "doubled": prefixed("transformer."),
    "FSDP": lambda tensors: {
        n.replace("transformer.h.", "transformer.h._fsdp_wrapped_module."): t
        for n, t in tensors.items()
    },
}


@pytest.mark.parametrize("kind", RENAMED)
def test_prefixes_of_either_model_are_seen_through(tmp_path: Path, kind: str) -> None:
    base, donor = save("gpt2", tmp_path / "base"), save("gpt2", tmp_path / "donor", 1)
    expected = merged(base, donor, out="expected")
    renamed = changed(donor, tmp_path / "renamed", RENAMED[kind])
    found = merged(base, renamed, out="found")
    assert found["model_id"] == expected["model_id"] and found["order"] == expected["order"]
    assert any("prefix" in text or "version" in text for _, _, text in found["notes"])
    other = changed(base, tmp_path / "other", RENAMED[kind])
    found = merged(other, donor, out="of other")
    one, two = (
        {inner_name(name): entry["sha256"] for name, entry in manifest["tensors"].items()}
        for manifest in (found, expected)
    )
    assert one == two


def test_hub_names_of_gpt2_load_with_a_head_of_their_own(tmp_path: Path) -> None:
    base, donor = save("gpt2", tmp_path / "base"), save("gpt2", tmp_path / "donor", 1)
    hub = changed(base, tmp_path / "hub", masks)

    def untied(tensors: Tensors) -> Tensors:
        return tensors | {"lm_head.weight": tensors["transformer.wte.weight"] + 1}

    other = changed(donor, tmp_path / "untied", untied)
    merged(hub, other, out="out")
    weights = load_file(tmp_path / "out" / "model.safetensors")
    assert "lm_head.weight" in weights
    loaded = models.load(tmp_path / "out")
    assert torch.equal(loaded.lm_head.weight, weights["lm_head.weight"])
    assert torch.equal(loaded.transformer.wte.weight, weights["wte.weight"])


@pytest.mark.parametrize("prefix", ["model.", "language_model.model.", "model.language_model.", ""])
@pytest.mark.parametrize("head", [False, True])
def test_text_only_donor_merges_into_a_multimodal_base(
    tmp_path: Path, prefix: str, head: bool
) -> None:
    base = save("gemma3 (multimodal)", tmp_path / "base")
    tuned = save("gemma3 (multimodal)", tmp_path / "tuned", 1)
    text = save("gemma3 (text)", tmp_path / "text")
    language = "language_model.model."

    def only_text(tensors: Tensors) -> Tensors:
        found = {
            prefix + name.removeprefix(language): tensor
            for name, tensor in tensors.items()
            if name.startswith(language)
        }
        if head:
            found["lm_head.weight"] = found[f"{prefix}embed_tokens.weight"]
        return found

    donor = changed(tuned, tmp_path / "donor", only_text)
    write_json(donor / "config.json", read_json(text / "config.json"))
    expected = merged(base, tuned, out="expected")["tensors"]
    found = merged(base, donor, out="found")
    kept = load_file(base / "model.safetensors")
    written = load_file(tmp_path / "found" / "model.safetensors")
    assert written.keys() == kept.keys()
    for name, tensor in kept.items():
        if name.startswith(language):
            assert found["tensors"][name]["sha256"] == expected[name]["sha256"]
        else:
            assert torch.equal(written[name], tensor)
    assert any("other parts than language" in text for _, _, text in found["notes"])
    models.load(tmp_path / "found")
    # The other way round the language model of the donor is merged.
    merged(donor, tuned, out="of text")
    assert load_file(tmp_path / "of text" / "model.safetensors").keys() >= {
        f"{prefix}layers.0.mlp.up_proj.weight"
    }


def refused(capsys: pytest.CaptureFixture[str], *folders: Path) -> str:
    out = folders[0].parent / "refused"
    capsys.readouterr()  # progress of building the models
    assert main(["ties", *map(str, folders), "--out", str(out)]) == 1
    assert not out.exists()
    text = capsys.readouterr().err
    assert text.startswith("error: ") and text.count("\n") == 1
    return text


def test_unknown_prefix_is_named_with_the_one_that_fits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, donor = save("llama", tmp_path / "base"), save("llama", tmp_path / "donor", 1)
    other = changed(donor, tmp_path / "other", prefixed("policy.net."))
    text = refused(capsys, base, other)
    assert "begin with 'policy.net.model.'" in text and "begin with 'model.'" in text


def test_two_names_of_one_tensor_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, donor = save("llama", tmp_path / "base"), save("llama", tmp_path / "donor", 1)
    other = changed(donor, tmp_path / "other", lambda t: t | prefixed("_orig_mod.")(t))
    assert "names of one tensor" in refused(capsys, base, other)


def test_parts_of_different_types_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, donor = save("phi3", tmp_path / "base"), save("phi3", tmp_path / "donor", 1)

    def half(tensors: Tensors) -> Tensors:
        found = split_rows(tensors)
        name = "model.layers.0.self_attn.k_proj.weight"
        return found | {name: found[name].half()}

    assert "cast the model to one type" in refused(
        capsys, base, changed(donor, tmp_path / "o", half)
    )


@pytest.mark.parametrize("missing", [0, 3])
def test_missing_experts_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], missing: int
) -> None:
    base, donor = save("mixtral", tmp_path / "base"), save("mixtral", tmp_path / "donor", 1)
    whole = changed(base, tmp_path / "whole", fused_experts("mixtral"))
    lacking = changed(
        donor,
        tmp_path / "lacking",
        lambda t: {n: x for n, x in t.items() if f"0.block_sparse_moe.experts.{missing}." not in n},
    )
    assert "lacks tensor" in refused(capsys, whole, lacking)
    assert "lacks tensor" in refused(capsys, base, lacking)


def test_interleaved_experts_are_never_split(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, donor = save("gpt_oss", tmp_path / "base"), save("gpt_oss", tmp_path / "donor", 1)

    def single(tensors: Tensors) -> Tensors:
        found: Tensors = {}
        for name, tensor in tensors.items():
            place, _, last = name.rpartition(".")
            if last == "down_proj":
                found |= {f"{place}.{i}.down_proj.weight": x for i, x in enumerate(tensor)}
            else:
                found[name] = tensor
        return found

    assert "lacks tensor" in refused(capsys, base, changed(donor, tmp_path / "o", single))
