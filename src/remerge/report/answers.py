"""Sample answers: what base, best donor and result said to the same three questions.

Nobody picks the questions: a task is chosen by how the scores differ, and of each its first.
"""

from __future__ import annotations

from dataclasses import dataclass

from remerge.report.build import Build, Scored
from remerge.report.scores import best_donor

#: Questions that are shown.
SHOWN = 3


@dataclass(frozen=True)
class Said:
    """What one model answered."""

    text: str
    right: bool


@dataclass(frozen=True)
class Question:
    """A question with the answer that counts as right, and an answer by each model."""

    task: str
    question: str
    expected: str
    said: tuple[Said, ...]


@dataclass(frozen=True)
class Answers:
    """What the report shows; `chosen` says how the questions were picked."""

    models: tuple[str, ...]
    questions: tuple[Question, ...]
    chosen: str


def answers_of(build: Build) -> Answers | None:
    """Three questions, and what was answered; None where no text was generated."""
    final = next(iter(build.role("final")), None)
    if final is None:
        return None
    best = best_donor(build, "mean")
    models = [*build.role("base")[:1], *([best] if best else []), final]
    tasks = [task for task in build.tasks if all(model.answers.get(task) for model in models)]
    if not tasks:
        return None

    def gained(task: str) -> float:
        return (final.score(task) or 0.0) - ((best.score(task) or 0.0) if best else 0.0)

    ordered = sorted(tasks, key=gained, reverse=True)
    if len(ordered) >= SHOWN:
        picked = [(ordered[0], 0), (ordered[len(ordered) // 2], 0), (ordered[-1], 0)]
        against = f" against {best.name}" if best else ""
        chosen = (
            f"The first question of three tasks: where the result gained most{against}, one in "
            "the middle, and where it lost most."
        )
    else:
        most = min(len(model.answers[task]) for model in models for task in tasks)
        picked = [(task, number) for number in range(most) for task in tasks][:SHOWN]
        chosen = "The first questions of the suite."
    return Answers(
        models=tuple(build.title if m.role == "final" else m.name for m in models),
        questions=tuple(_question(models, task, number) for task, number in picked),
        chosen=chosen,
    )


def _question(models: list[Scored], task: str, number: int) -> Question:
    asked = models[0].answers[task][number]
    said = [model.answers[task][number] for model in models]
    return Question(
        task,
        asked["question"],
        asked["expected"].strip(),
        tuple(Said(each["answer"].strip(), each["right"]) for each in said),
    )
