"""`remerge ties`, `bake` and `gradient`: what they make of folders, and what they refuse."""

from __future__ import annotations

import argparse
import importlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from remerge.cli import main
from remerge.shards import artefact
from remerge.tensors.checkpoint import open_checkpoint, read_f32
from tests.proof.models import HIDDEN, ROWS, llama, save

Say = Callable[..., tuple[int, str]]
EMBEDDING = "model.embed_tokens.weight"


@pytest.fixture
def say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Say:
    """Run `remerge` in a folder of its own; returns the exit status and all that it printed."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> tuple[int, str]:
        status = main(words)
        out, err = capfd.readouterr()
        return status, out + err

    return run


def model(folder: str, seed: int, tokens: str = "", rows: int = ROWS) -> Path:
    """A small Llama whose tokens are the letters of `tokens`, if it has a tokenizer."""
    tensors = llama(seed)
    for name in (EMBEDDING, "lm_head.weight"):
        values = np.resize(tensors[name][1], (rows, HIDDEN))
        tensors[name] = ("F16", values)
    made = save(Path(folder), tensors)
    if tokens:
        vocabulary = {text: number for number, text in enumerate(tokens)}
        (made / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocabulary}}))
    return made


def adapter(folder: str) -> None:
    Path(folder).mkdir(parents=True)
    module = "base_model.model.model.layers.0.self_attn.q_proj"
    ones = np.ones((2, HIDDEN), np.float32)
    save_file(
        {f"{module}.lora_A.weight": ones, f"{module}.lora_B.weight": ones.T.copy()},
        str(Path(folder) / "adapter_model.safetensors"),
    )
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 2}
    (Path(folder) / "adapter_config.json").write_text(json.dumps(config))


def manifest(folder: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((Path(folder) / "manifest.json").read_text())
    return found


def test_tokens_that_changed_places_are_refused_or_mapped(say: Say) -> None:
    model("base", 0, "ab")
    model("donor", 1, "ba")
    for rule in ((), ("--vocabulary", "truncate")):
        status, text = say("ties", "base", "donor", *rule, "--out", "out")
        assert status == 1 and not Path("out").exists()
        assert text.startswith("error: donor: token 'a' is number 1 there and 0 in base")
        assert text.count("\n") == 1 and "--vocabulary map" in text
    status, text = say("gradient", "base", "donor", "0", "1", "--out", "out")
    assert status == 1 and text.startswith("error: donor: token 'a' is number 1")
    for name, donor, rule in (
        ("all", "donor", ("--vocabulary", "map")),
        ("one", "donor:::map", ()),
    ):
        assert say("ties", "base", donor, *rule, "--density", "1", "--out", name)[0] == 0
        assert manifest(name)["parameters"]["donors"][0]["vocabulary"] == "map"
    assert manifest("all")["model_id"] == manifest("one")["model_id"]
    given, merged = (open_checkpoint(f).tensors[EMBEDDING] for f in ("donor", "all"))
    rows, moved = (read_f32(t).reshape(t.shape) for t in (given, merged))
    assert np.allclose(moved[:2], rows[[1, 0]], atol=1e-3)
    assert not list(Path(".scratch").glob("vocabulary*"))


def test_a_rule_may_be_one_donors_own(say: Say) -> None:
    model("base", 0)
    model("same", 1)
    model("larger", 2, rows=ROWS + 2)
    status, text = say("ties", "base", "same", "larger", "--out", "out")
    assert status == 1
    assert "2 rows more" in text and "`--vocabulary truncate` on the command line" in text
    assert say("ties", "base", "same", "larger:0.5:2:truncate", "--out", "out")[0] == 0
    donors = manifest("out")["parameters"]["donors"]
    assert [d["vocabulary"] for d in donors] == [None, "truncate"]
    assert [(d["density"], d["weight"]) for d in donors] == [(0.33, 1.0), (0.5, 2.0)]
    status, text = say("gradient", "same", "larger", "0", "1", "--out", "blend")
    assert status == 1 and "`--vocabulary truncate` on the command line" in text
    blend = ("gradient", "same", "larger", "0", "1", "--vocabulary", "truncate", "--out", "blend")
    assert say(*blend)[0] == 0
    assert manifest("blend")["parameters"]["vocabulary"] == "truncate"
    assert ["larger", EMBEDDING, "2 vocabulary rows beyond the base, dropped"] in manifest("blend")[
        "notes"
    ]


@pytest.mark.parametrize(
    "donor", ["x:half", "x:0.5:two", "x:0.5:1:pad", "x:0.5:1:map:9", ":0.5", "x:2", "x:0.5:-1e39"]
)
def test_a_donor_that_is_not_understood_is_one_line(say: Say, donor: str) -> None:
    model("base", 0)
    model("x", 1)
    status, text = say("ties", "base", donor, "--out", "out")
    assert status == 1 and text.startswith("error: ") and text.count("\n") == 1


def test_donors_of_one_name_take_part_under_more_of_their_paths(say: Say) -> None:
    model("base", 0)
    model("run1/final", 1)
    model("run2/final", 2)
    assert say("ties", "base", "run1/final", "run2/final", "--out", "out")[0] == 0
    assert set(manifest("out")["inputs"]) == {"base", "run1/final", "run2/final"}
    assert say("gradient", "run1/final", "run2/final", "0", "1", "--out", "blend")[0] == 0
    assert manifest("blend")["parameters"]["models"] == ["run1/final", "run2/final"]
    assert set(manifest("blend")["inputs"]) == {"run1/final", "run2/final"}
    status, text = say("ties", "base", "run1/final", "run1/final", "--out", "twice")
    assert (status, text) == (1, "error: ties: 'final' takes part more than once\n")


def interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def test_a_bake_never_takes_over_what_another_one_began(
    say: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two donors and the adapter have one name, and the first bake was interrupted at its end."""
    model("m1/hermes", 1)
    model("m2/hermes", 2)
    adapter("adapters/hermes")
    with monkeypatch.context() as patched:
        patched.setattr(artefact, "publish_folder", interrupted)
        status, text = say("bake", "m1/hermes", "adapters/hermes", "--out", "out")
    assert status == 130 and "finished shards are kept" in text
    assert list(Path(".scratch").rglob("*.safetensors"))
    assert say("bake", "m2/hermes", "adapters/hermes", "--out", "out")[0] == 0
    alone = ("bake", "m2/hermes", "adapters/hermes", "--out", "alone", "--scratch", "fresh")
    assert say(*alone)[0] == 0
    assert manifest("out") == manifest("alone")
    assert set(manifest("out")["inputs"]) == {"m2/hermes", "adapters/hermes"}


def test_a_map_that_changed_takes_over_nothing(say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    """The donor is a folder of this library: its model id leaves out its tokenizer."""
    model("base", 0, "abc")
    model("raw", 1, "abc")
    assert say("ties", "base", "raw", "--out", "donor")[0] == 0
    ties = ("ties", "base", "donor", "--vocabulary", "map", "--density", "1", "--out")
    with monkeypatch.context() as patched:
        patched.setattr(artefact, "publish_folder", interrupted)
        assert say(*ties, "out")[0] == 130
    vocabulary = {"model": {"vocab": {"a": 1, "b": 0, "c": 2}}}
    (Path("donor") / "tokenizer.json").write_text(json.dumps(vocabulary))
    assert say(*ties, "out")[0] == 0
    assert say(*ties, "alone", "--scratch", "fresh")[0] == 0
    assert manifest("out")["model_id"] == manifest("alone")["model_id"]


def test_tensors_are_counted_in_state_dict_order_whatever_the_files_order(say: Say) -> None:
    tensors = llama(1)
    save(Path("ordered"), tensors)
    save(Path("jumbled"), dict(sorted(tensors.items(), reverse=True)))
    model("second", 2)
    for first in ("ordered", "jumbled"):
        assert say("gradient", first, "second", "0", "0.3", "1", "--out", f"of-{first}")[0] == 0
    one, other = manifest("of-ordered"), manifest("of-jumbled")
    assert one["order"] == other["order"] == list(tensors)
    assert one["model_id"] == other["model_id"] and one["files"] == other["files"]
    for made in (("ties", "jumbled", "second"), ("bake", "jumbled", "adapter")):
        if made[0] == "bake":
            adapter("adapter")
        assert say(*made, "--out", made[0])[0] == 0
        assert manifest(made[0])["order"] == list(tensors)


def test_tensors_of_an_unknown_architecture_cannot_be_counted(say: Say) -> None:
    model("first", 1)
    model("second", 2)
    (Path("first") / "config.json").write_text('{"model_type": "of tomorrow"}')
    status, text = say("gradient", "first", "second", "0", "1", "--out", "out")
    assert status == 1 and "use --along layers" in text and text.count("\n") == 1
    assert say("gradient", "first", "second", "0", "1", "--along", "layers", "--out", "out")[0] == 0


def test_the_sum_and_the_mean_are_told_apart(say: Say) -> None:
    model("base", 0)
    for seed in (1, 2):
        model(f"d{seed}", seed)
    common = ("ties", "base", "d1", "d2", "--density", "1", "--out")
    assert say(*common, "mean")[0] == 0
    assert say(*common, "sum", "--no-normalize")[0] == 0
    assert say(*common, "counted", "--elect", "count")[0] == 0
    named = {name: manifest(name)["parameters"] for name in ("mean", "sum", "counted")}
    assert [p["normalize"] for p in named.values()] == [True, False, True]
    assert [p["elect"] for p in named.values()] == ["sum", "sum", "count"]
    assert manifest("mean")["model_id"] != manifest("sum")["model_id"]


@pytest.mark.parametrize("config", ['{"a": NaN}', '{"a": "\\ud800"}', "[]", '{"model_type": []}'])
def test_a_config_that_is_none_ends_in_one_line_before_the_work(say: Say, config: str) -> None:
    model("base", 0)
    model("donor", 1)
    (Path("base") / "config.json").write_text(config)
    for verb in (("ties", "base", "donor"), ("gradient", "base", "donor", "0", "1")):
        status, text = say(*verb, "--out", "out")
        if status == 0:  # a type of model that nobody knows is no reason not to merge by tensors
            shutil.rmtree("out")
            continue
        assert text.startswith("error: ") and text.count("\n") == 1
        assert not Path("out").exists() and not list(Path().rglob("*.done.json"))


@pytest.mark.parametrize("verb", ["ties", "bake", "gradient"])
def test_help_explains_every_option_and_shows_an_example(
    verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([verb, "--help"])
    text = capsys.readouterr().out
    assert ended.value.code == 0
    assert f"\n  remerge {verb} " in text and "--out" in text
    parser = argparse.ArgumentParser()
    importlib.import_module(f"remerge.commands.{verb}").arguments(parser)
    assert not [action.dest for action in parser._actions if not action.help]
    assert "--sum" not in text
