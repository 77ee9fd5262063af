"""The command `remerge`: a table of verbs, each a module of `remerge.commands`.

A verb's module has `arguments(parser)`, which describes it to argparse, and `run(options)`, which
does it and may return an exit status. It is imported when it is used.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import keyword
import sys
from collections.abc import Sequence

from remerge.errors import RemergeError, line_of, printable
from remerge.extras import missing_extra
from remerge.streams import drop_output, open_streams

#: verb → one line of help; the module has the verb's name, see `_module`.
VERBS: dict[str, str] = {
    "plan": "say what a recipe downloads, keeps and takes, before anything runs",
    "use": "choose the recipe in use and values of its parameters, or show the choice",
    "compare": "compare experiments: what was changed, mean, scores, size",
    "pin": "resolve the sources of a recipe to commits and digests, or check that they hold",
    "merge": "run a mergekit YAML file, with every method, exact to the bit",
    "new": "make a project of your own for a recipe or a mergekit file",
    "sync": "bring a project that `new` made up to its edited recipe",
    "import": "turn a mergekit YAML file into a recipe",
    "export": "write a recipe as mergekit YAML, where mergekit can do what it says",
    "bake": "bake a LoRA adapter into a model",
    "ties": "merge donors into a base by TIES (trim, elect sign, merge)",
    "gradient": "blend two models by a ratio that changes along them",
    "dequantize": "write a quantized model (FP8, int4, 4-bit, MXFP4) as a plain one",
    "quantize": "write a model in the formats that people run: GGUF, GPTQ, legacy GGML",
    "score": "score models on a suite of tasks, quants in their own runtime",
    "id": "print the model id: one digest of the weights, whatever files they lie in",
    "diff": "say which tensors of two models differ, by how much, in which layers",
    "verify-format": "re-derive a GGUF or GGML file from its model, and say which tensors differ",
    "verify": "rebuild this commit elsewhere in other surroundings, and compare every artefact",
    "sign": "sign a finished model, offline, with a key of your own",
    "verify-signature": "check that a model is, file by file, what somebody signed",
    "check": "check folders against their manifests, byte by byte",
    "compile": "compile all kernels for this machine, which their first use would do",
    "repair": "put a broken dvc.lock back, or remove damaged outputs so that DVC makes them again",
    "release": "put the built model, its card and chosen formats into a folder to upload",
    "chat": "talk to a built model, in any of its formats",
}

_SHARDS = "finished shards are kept, run it again to go on"
#: What an interrupted verb keeps, where it keeps something.
KEPT: dict[str, str] = {
    **dict.fromkeys(("merge", "bake", "ties", "gradient", "dequantize"), _SHARDS),
    "score": "finished tasks and answers are kept, run it again to go on",
}

_DESCRIPTION = """\
Rebuild merged language models to the last bit.

The pipeline of this repository is run by DVC (`dvc repro`, `dvc exp run -S ties.density=0.6`);
these commands do single steps by hand and look at what was built."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    open_streams()
    parser = argparse.ArgumentParser(
        prog="remerge",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="`remerge VERB --help` explains a verb.",
    )
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    chosen = next((a for a in (sys.argv[1:] if arguments is None else arguments) if a in VERBS), "")
    try:
        for verb, help_line in VERBS.items():
            subparser = verbs.add_parser(
                verb, help=help_line, formatter_class=argparse.RawDescriptionHelpFormatter
            )
            if verb == chosen:
                module = importlib.import_module(f"remerge.commands.{_module(verb)}")
                subparser.description = module.__doc__
                module.arguments(subparser)
                subparser.set_defaults(run=module.run)
        options = parser.parse_args(arguments)
        status = options.run(options) or 0
        sys.stdout.flush()  # a full disk shows here, or only once it is too late for a line
        return int(status)
    except RemergeError as error:
        return _failed(str(error))
    except ModuleNotFoundError as error:
        refusal = missing_extra(error)
        if refusal is None:
            raise
        return _failed(str(refusal))
    except BrokenPipeError:
        return _failed("")
    except KeyboardInterrupt:
        kept = f"; {KEPT[chosen]}" if chosen in KEPT else ""
        print(f"interrupted{kept}", file=sys.stderr)
        return 130
    except Exception as error:
        line = line_of(error)
        if line is None:
            raise
        return _failed(line)


def _module(verb: str) -> str:
    """The module of a verb; `import` is a word of Python."""
    return f"{verb}_" if keyword.iskeyword(verb) else verb.replace("-", "_")


def _failed(line: str) -> int:
    """Status 1 with one line of error; what cannot be written any more is dropped."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        if line:
            print(f"error: {printable(line, 2000)}", file=sys.stderr, flush=True)
    drop_output()
    return 1


if __name__ == "__main__":
    sys.exit(main())
