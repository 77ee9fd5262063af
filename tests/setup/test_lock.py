"""The lock files hold every dependency, pinned as pyproject.toml pins it, with digests."""

from __future__ import annotations

import importlib.metadata
import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
FILES = ("run.txt", "dev.txt", "torch.txt", "torch-cpu.txt", "pip.txt")
ENTRY = re.compile(r"([A-Za-z0-9][^\\\n]*) \\\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)")


def locked(*names: str) -> dict[str, tuple[Requirement, int]]:
    """Entries of lock files: canonical name to requirement and number of digests."""
    entries: dict[str, tuple[Requirement, int]] = {}
    for name in names:
        here = set()
        for line, digests in ENTRY.findall((ROOT / "requirements" / name).read_text()):
            requirement = Requirement(line)
            key = canonicalize_name(requirement.name)
            assert key not in here, f"{name}: two versions of {key}"
            here.add(key)
            entries[key] = (requirement, digests.count("sha256:"))
    return entries


def declared() -> dict[str, list[Requirement]]:
    """Direct dependencies by extra; those of the package itself under ''.

    `pipeline`, which names other extras, has theirs as well.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = {"": project["dependencies"], **project["optional-dependencies"]}
    groups = {group: [Requirement(line) for line in listed] for group, listed in lines.items()}
    for group, requirements in groups.items():
        own = [r for r in requirements if r.name == "remerge"]
        named = [r for o in own for extra in sorted(o.extras) for r in groups[extra]]
        groups[group] = [r for r in requirements if r.name != "remerge"] + named
    return groups


@pytest.mark.parametrize("name", FILES)
def test_every_line_of_a_lock_file_is_a_pin_with_digests(name: str) -> None:
    text = (ROOT / "requirements" / name).read_text()
    rest = re.sub(r"^#.*\n", "", ENTRY.sub("", text), flags=re.MULTILINE)
    assert rest == ""
    for requirement, digests in locked(name).values():
        assert [spec.operator for spec in requirement.specifier] == ["=="], requirement
        assert digests >= 1, requirement


@pytest.mark.parametrize("group", declared())
def test_locked_versions_are_in_the_declared_ranges(group: str) -> None:
    lock = locked("torch.txt", "run.txt" if group in ("", "pipeline") else "dev.txt")
    for requirement in declared()[group]:
        entry, _ = lock[canonicalize_name(requirement.name)]
        (pin,) = entry.specifier
        assert requirement.specifier.contains(pin.version), f"{requirement}: run `make lock`"


def test_the_pipeline_is_locked_to_the_versions_that_the_tests_use() -> None:
    run, dev = locked("run.txt"), locked("dev.txt")
    assert run == {name: dev.get(name) for name in run}


def test_both_kinds_of_torch_are_of_one_version() -> None:
    torch, _ = locked("torch.txt")["torch"]
    cpu, _ = locked("torch-cpu.txt")["torch"]
    assert f"{torch.specifier}+cpu" == str(cpu.specifier)
    assert "torch" not in locked("run.txt", "dev.txt")


def test_the_lock_is_complete() -> None:
    """What the installed packages ask for is in the lock, so --no-deps leaves nothing out."""
    run = locked("run.txt", "torch.txt")
    direct = declared()[""] + declared()["pipeline"]
    todo, seen = [(r, {""}) for r in direct], set()
    while todo:
        requirement, extras = todo.pop()
        if requirement.marker and not any(
            requirement.marker.evaluate({"extra": e}) for e in extras
        ):
            continue
        name = canonicalize_name(requirement.name)
        assert name in run, f"{requirement} is not in run.txt: run `make lock`"
        if (name, frozenset(requirement.extras)) in seen:
            continue
        seen.add((name, frozenset(requirement.extras)))
        needs = importlib.metadata.requires(name) or []
        if not any("nvidia" in need for need in needs):
            todo += [(Requirement(need), {"", *requirement.extras}) for need in needs]
    assert len(seen) > len(direct)
