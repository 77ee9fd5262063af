"""Files of conf/ that read more than a recipe may, or never end: conf/ties/NAME.yaml."""

from __future__ import annotations

from pathlib import Path

from tests.faults.samples import Write, sample

_TIES = "density: 0.33\nlambda: 1.0\nnormalize: true\nelect: sum\n"


def _recipe(name: str, what: str, text: str) -> Write:
    def write(path: Path) -> None:
        path.write_text(text)

    write.__name__, write.__doc__ = name, what
    return sample("recipe")(write)


def _value(name: str, what: str, value: str) -> Write:
    """A file of a merge's settings that sets a text of the recipe as well, which tiny does not."""
    ties = "".join(f"  {line}\n" for line in _TIES.splitlines())
    text = f"# @package _global_\nrecipe:\n  assumptions:\n    read: {value}\nties:\n{ties}"
    return _recipe(name, what, text)


_value(
    "reads_a_variable", "Writes a token of the environment into params.yaml.", "${oc.env:SECRET}"
)
_value("reads_it_in_parts", "Names the resolver by an interpolation.",
       "'${oc.${recipe.assumptions.part}:SECRET}'\n    part: env")  # fmt: skip
_value("reads_by_decoding", "Hides the resolver in a text that is decoded.",
       "'${oc.decode:\"$\\{oc.env:SECRET\\}\"}'")  # fmt: skip
_value("reads_by_creating", "Hides the resolver in a value that is created.",
       "\"${oc.create:'{a: ${oc.env:SECRET}}'}\"")  # fmt: skip
_value(
    "reads_in_a_key", "Shows a token as the name of a missing key.", "${recipe.${oc.env:SECRET}}"
)
_value("reads_the_clock", "Writes the time of day.", "'${now:%Y-%m-%d}'")
_value("reads_the_folder", "Writes where the project lies.", "'${hydra:runtime.cwd}'")
_value("reads_the_version", "Writes the version of Python.", "'${python_version:}'")
_value("escapes", "Leaves an interpolation for the next reader.", "'\\${oc.env:SECRET}'")
_recipe("reads_in_defaults", "Shows a token as the name of a missing option.",
        "defaults:\n  - /gradient: ${oc.env:SECRET}\n" + _TIES)  # fmt: skip
_recipe("copies_the_environment", "Has Hydra copy a variable into its own section.",
        "# @package hydra\njob:\n  env_copy: [SECRET]\n")  # fmt: skip
_recipe("empties_a_file", "Has Hydra call a class of any package as it starts.",
        "# @package _global_\nhydra:\n  callbacks:\n    a:\n      _target_: logging.FileHandler\n"
        "      filename: precious\n      mode: w\n")  # fmt: skip
_recipe("writes_elsewhere", "Has Hydra write into a folder outside of the project.",
        "# @package hydra\nrun:\n  dir: ../outside\n")  # fmt: skip
_recipe("reads_beside", "Reads a file outside of conf/.", "defaults:\n  - /../elsewhere\n" + _TIES)
_recipe("bomb", "Ten thousand million values by way of aliases.",
        "a0: &a0 [x, x]\n" + "".join(
            f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
        ) + _TIES)  # fmt: skip
_recipe("brackets", "Fifty thousand lists, one in the other.", "[" * 50_000)
_recipe("itself", "A list that holds itself.", "a: &a [*a]\n" + _TIES)
_recipe("long", "Eight million characters.", "a: " + "x" * 8_000_000 + "\n" + _TIES)
_recipe("null_byte", "No text.", "a: \0\n")
_recipe("sixties", "A number to the base of 60 with a million digits: minutes of arithmetic.",
        f"a: 1{':1' * 1_000_000}\n{_TIES}")  # fmt: skip
_recipe("directives", "A hundred thousand directives, each compared with all before it.",
        "".join(f"%TAG !e{i}! tag:x,2000:\n" for i in range(120_000)) + f"---\n{_TIES}",
        )  # fmt: skip


@sample("mergekit")
def layers(path: Path) -> None:
    """Asks for a billion layers of a model, each of which would be named."""
    source = "{model: base, layer_range: [0, 1000000000]}"
    path.write_text(
        f"slices: [{{sources: [{source}]}}]\nmerge_method: passthrough\ndtype: float16\n"
    )
