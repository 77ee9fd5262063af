"""Score models on the suite of params.yaml, without a network and without the pipeline.

  remerge score merged/final quantized/gguf_q8_0
  remerge score merged/final --published Stheno-L2-13B --device cuda --batch-size 16 --limit 100

A model is a folder with safetensors or with one GGUF or GGML file, or such a file; each quant runs
in its own runtime. Rounded scores go to OUT/<model>/scores.json; answers and log-likelihoods to
OUT/whole/<model>/. What the pipeline makes is never written over: OUT is no folder of its outputs.
An interrupted run goes on where it stopped when it is started again with the same options. Models
run in a child process with limits on memory and time; no code that comes with a model is run.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from remerge.commands.untrusted import add_limit_options, limits_of

#: Options that stand in place of the suite's own settings.
_SETTINGS = ("batch_size", "device", "dtype", "limit", "chat_template", "fewshot_as_multiturn")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the verb to argparse."""
    parser.add_argument(
        "models", nargs="+", type=Path, metavar="MODEL", help="folder or file of a model"
    )
    parser.add_argument(
        "--params",
        type=Path,
        default=Path("params.yaml"),
        help="the file whose section `eval` is the suite (default: %(default)s)",
    )
    parser.add_argument(
        "--out", type=Path, default=Path("scratch/scores"), help="default: %(default)s"
    )
    parser.add_argument("--batch-size", type=int, help="prompts at once (default: the suite's)")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, mps (default: the suite's)")
    parser.add_argument(
        "--dtype", help="float64, float32, bfloat16 or float16 (default: the suite's)"
    )
    parser.add_argument("--limit", type=int, help="score only the first LIMIT items of each task")
    parser.add_argument(
        "--chat-template",
        action="store_true",
        default=None,
        help="put questions as the model's own chat template does (lm-eval's apply_chat_template)",
    )
    parser.add_argument(
        "--fewshot-as-multiturn",
        action="store_true",
        default=None,
        help="with --chat-template: the examples shown are earlier turns of the conversation",
    )
    parser.add_argument(
        "--published",
        metavar="NAME",
        help="compare with the scores that the suite has under this name",
    )
    parser.add_argument(
        "--scratch",
        type=Path,
        help="where finished tasks and answers are kept (default: .scratch beside --out)",
    )
    add_limit_options(parser, 600)


def run(options: argparse.Namespace) -> None:
    """Do it."""
    from remerge.errors import RecipeError
    from remerge.evaluate.results import compare
    from remerge.evaluate.scoring import Model
    from remerge.evaluate.suite import suite_from_params, with_settings
    from remerge.evaluate.watched import score_watched
    from remerge.yaml_text import read_yaml

    try:
        params = read_yaml(options.params)
    except (OSError, ValueError) as error:
        raise RecipeError(f"{options.params}: {' '.join(str(error).split())}") from None
    if not isinstance(params, dict) or not isinstance(params.get("eval"), dict):
        raise RecipeError(f"{options.params}: has no section `eval`; compose it from conf/")
    settings = {name: getattr(options, name) for name in _SETTINGS}
    suite = with_settings(suite_from_params(params["eval"]), **settings)
    if options.published and options.published not in suite.published:
        known = ", ".join(sorted(suite.published)) or "none"
        raise RecipeError(
            f"--published {options.published}: the suite {suite.name} has scores of: {known}"
        )
    models = [
        Model(name, path, options.out / name) for path in options.models for name in [_name(path)]
    ]
    for model in models:
        _check_free(model.out_folder)
    results = score_watched(
        models,
        params["eval"],
        limits_of(options, options.models, suite.batch_size),
        settings=settings,
        scratch=options.scratch or options.out.parent / ".scratch" / "evaluate",
    )
    width = max(len(name) for name in results)
    columns = [*(benchmark.name for benchmark in suite.benchmarks), "average"]
    print("  ".join([" " * width, *(f"{column:>6}" for column in columns)]))
    for name, result in results.items():
        scores = {**result["scores"], "average": result["average"]}
        cells = [f"{scores[column]:{max(len(column), 6)}.4f}" for column in columns]
        print("  ".join([f"{name:{width}}", *cells]))
    for name, result in results.items():
        for row in compare(suite, options.published, result) if options.published else ():
            verdict = "same" if row["within"] else "differs"
            if not row["comparable"] or result["settings"]["limit"] is not None:
                verdict = "not comparable"
            print(
                f"{name} {row['task']}: {row['rebuilt']:.2f}, published {row['published']:.2f}, "
                f"difference {row['difference']:+.2f}: {verdict}"
            )
    for note in dict.fromkeys(note for result in results.values() for note in result["notes"]):
        print(f"note: {note}")


def _name(path: Path) -> str:
    """What the table calls a model: its folder, or its file, which is called `model` by default."""
    path = path.resolve()
    if path.is_file():
        return path.stem if path.stem != "model" else path.parent.name
    return path.name or "model"


def _check_free(out: Path) -> None:
    """RecipeError if DVC tracks `out`: a score by hand would pass for one of the pipeline."""
    from remerge.errors import RecipeError
    from remerge.yaml_text import read_yaml

    try:
        stages = read_yaml(Path("dvc.lock"))["stages"]
        outs = {
            str(o["path"]): stage for stage, done in stages.items() for o in done.get("outs", ())
        }
    except FileNotFoundError:
        return
    except (OSError, ValueError, TypeError, LookupError, AttributeError):
        raise RecipeError(
            "dvc.lock: cannot be read, so that --out may be an output of the pipeline; restore it"
        ) from None
    for path, stage in outs.items():
        if out.resolve().is_relative_to(Path(path).resolve()):
            raise RecipeError(
                f"--out: {out} is made by the stage {stage}; choose another folder for scores that "
                "are made by hand"
            )
