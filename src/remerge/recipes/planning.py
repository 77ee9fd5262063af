"""From merges to a plan: models found, tables made, files chosen.

>>> with planned(merges, settings) as found:
...     build(found.plan, out, companions=found.companions, …)

A merge that another one uses by its name is computed on the way, tensor by tensor. Everything that
headers and configs tell is checked here, before a weight is read.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from remerge.adapters.peft_files import read_adapter
from remerge.architectures.alignment import align_heads, as_head_of
from remerge.architectures.compatibility import (
    COMPUTED,
    TOKEN_TENSORS,
    Note,
    truncated,
    weights_only,
)
from remerge.architectures.heads import untied
from remerge.baking.bake import plan_bake
from remerge.errors import CheckpointError, RecipeError, printable
from remerge.merge.computed import ComputedModel, computed_model
from remerge.merge.result_config import config_changes
from remerge.merge.settings import filters_of
from remerge.merge.table import Row, Slice, Table, Use, make_table
from remerge.merge.table_plan import TablePlan, plan_table
from remerge.merge.token_mapping import map_vocabulary
from remerge.merge.vocabularies import OneVocabulary, with_one_vocabulary
from remerge.methods.gradient import Gradient, blend_ratios
from remerge.recipes.mergekit.references import Reference
from remerge.recipes.merges import Merge, Module
from remerge.recipes.schema import is_hub
from remerge.recipes.tokenizers import check_tokens, one_vocabulary, tokenizer_companions
from remerge.schema import nearest, shown
from remerge.shards.artefact import companions_of
from remerge.shards.inputs import distinct_labels
from remerge.shards.order import in_state_dict_order
from remerge.tensors.checkpoint import Checkpoint, config_of, open_checkpoint
from remerge.tensors.dtypes import promoted
from remerge.tensors.json_files import write_json

#: The folder of a model or adapter that a reference names; None where there is none.
Find = Callable[[str, str | None], Path | None]
Model = Checkpoint | ComputedModel


@dataclass(frozen=True)
class Planned:
    """A merge that is ready to run.

    Attributes:
        plan: What computes the result.
        companions: Files of config and tokenizer by name.
        config_changes: Entries of config.json to set.
        notes: What was accepted and has no effect, for the user.
        unused: Names of documents that the result does not use.
    """

    plan: TablePlan
    companions: Mapping[str, Path]
    config_changes: Mapping[str, Any]
    notes: tuple[str, ...]
    unused: tuple[str, ...]


@dataclass(frozen=True)
class Settings:
    """How a file is planned.

    Attributes:
        find: Finds folders.
        scratch: Where small files lie while the plan is used.
        shard_bytes: Size limit of an output file.
        by_row: Merge embeddings row by row, whatever tokens the tokenizers have there.
        result: Name of the document whose result is wanted; None: the only one that no other uses.
    """

    find: Find
    scratch: Path
    shard_bytes: int
    by_row: bool = False
    result: str | None = None


@contextmanager
def planned(merges: Sequence[Merge], settings: Settings) -> Iterator[Planned]:
    """Plan the result of a file; its small files lie in a folder that goes with the block.

    Raises:
        RecipeError, CheckpointError: What cannot be merged, named with file and document.
    """
    folder = settings.scratch / f"documents-{uuid.uuid4().hex}"
    try:
        yield _Planner(merges, settings, folder).plan()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def result_of(merges: Sequence[Merge], wanted: str | None) -> Merge:
    """The document whose result is wanted: that of a name, the unnamed one, or the last of all."""
    names = [merge.name for merge in merges if merge.name is not None]
    if wanted is not None:
        found = [merge for merge in merges if merge.name == wanted]
        if not found:
            there = ", ".join(names) or "none with a name"
            raise RecipeError(
                f"{merges[0].place}: there is no document {shown(wanted)}"
                f"{nearest(wanted, names) or ';'} there are {there}"
            )
        return found[0]
    unnamed = [merge for merge in merges if merge.name is None]
    if unnamed:
        return unnamed[0]
    used = {reference.model for merge in merges for reference in merge.references()}
    last = [merge for merge in merges if merge.name not in used]
    if len(last) == 1:
        return last[0]
    where = merges[0].file
    if not last:
        raise RecipeError(f"{where}: every document uses another one; none is the result")
    raise RecipeError(
        f"{where}: {', '.join(str(merge.name) for merge in last)} are used by no other document; "
        "say which one is the result with --result NAME"
    )


class _Planner:
    def __init__(self, merges: Sequence[Merge], settings: Settings, folder: Path) -> None:
        self.merges, self.settings, self.folder = merges, settings, folder
        self.named = {merge.name: merge for merge in merges if merge.name is not None}
        self.results: dict[str, ComputedModel] = {}
        self.models: dict[Reference, Model] = {}
        self.buffers: dict[Reference, list[Note]] = {}
        self.known_order: dict[Reference, bool] = {}
        self.labels: dict[Reference, str] = {}
        self.digests: dict[str, str] = {}
        self.used: list[Merge] = []
        self.notes: list[str] = []

    def plan(self) -> Planned:
        merge = result_of(self.merges, self.settings.result)
        self.order(merge, ())
        self.label_models()
        for each in self.used:
            self.find(each)
        plan, companions, changes = self.of_merge(merge)
        for each in self.used:
            self.notes += each.notes
        unused = [str(each.name) for each in self.merges if each not in self.used]
        return Planned(plan, companions, changes, tuple(dict.fromkeys(self.notes)), tuple(unused))

    def order(self, merge: Merge, above: tuple[str, ...]) -> None:
        """Note the documents that `merge` is made of, each after those it uses."""
        if merge in self.used:
            return
        name = merge.name or ""
        if name and name in above:
            circle = " → ".join([*above[above.index(name) :], name])
            raise RecipeError(f"{merge.place}: it is made of itself: {circle}")
        for reference in merge.references():
            if self.is_document(reference):
                self.order(self.named[reference.model], (*above, name))
        self.used.append(merge)

    def is_document(self, reference: Reference) -> bool:
        return reference.model in self.named and reference.revision is None

    def label_models(self) -> None:
        """Give every model a name for messages and the manifest, without the path to it."""
        references = list(dict.fromkeys(r for merge in self.used for r in merge.references()))
        paths = [
            text
            for reference in references
            for text in (reference.model, reference.adapter)
            if text is not None and not is_hub(text) and text not in self.named
        ]
        short = dict(zip(paths, distinct_labels([_expanded(p) for p in paths]), strict=True))
        for reference in references:
            changed = replace(
                reference,
                model=short.get(reference.model, reference.model),
                adapter=short.get(reference.adapter or "", reference.adapter),
            )
            self.labels[reference] = str(changed)

    def find(self, merge: Merge) -> None:
        """Refuse a model that is neither a folder nor a document, with its line."""
        for reference in merge.references():
            for text, revision, what in reference.parts(self.named):
                if self.settings.find(text, revision) is None:
                    close = nearest(text, self.named)
                    hub = "; `remerge pin` on this file pins models of the hub"
                    raise RecipeError(
                        f"{self.at(merge, reference)}: there is no {what} {shown(text)}"
                        f"{close or ';'} expected a folder with its files, or the name of another "
                        f"document{hub if is_hub(text) else ''}"
                    )

    def at(self, merge: Merge, reference: Reference) -> str:
        """File and line where a document first names a model."""
        where = merge.file
        for path, line in sorted(merge.document.lines.items(), key=lambda item: item[1]):
            value: Any = merge.document.value
            for step in path:
                value = value[step]
            if isinstance(value, str) and value.strip() == str(reference):
                return f"{where}:{line}"
        return merge.place

    def checkpoint(self, reference: Reference, dtype: str | None) -> Checkpoint:
        """The tensors of a model, whether they lie in files or not."""
        model = self.model(reference, dtype)
        return model.checkpoint if isinstance(model, ComputedModel) else model

    def model(self, reference: Reference, dtype: str | None) -> Model:
        found = self.models.get(reference)
        if found is None:
            found = self.models[reference] = self.open(reference, dtype)
        return found

    def open(self, reference: Reference, dtype: str | None) -> Model:
        label = self.labels[reference]
        if self.is_document(reference):
            if reference.adapter is not None:
                raise RecipeError(
                    f"{label}: an adapter on the result of another document cannot be baked on "
                    "the way; make that document's result first and name its folder"
                )
            inner = self.named[reference.model]
            result = self.result(inner)
            self.known_order[reference] = all(self.known_order[r] for r in inner.merged())
            return result
        if reference.adapter is not None:
            return self.baked(reference, dtype)
        folder = self.settings.find(reference.model, reference.revision)
        assert folder is not None
        model = open_checkpoint(folder, label)
        model, known = in_state_dict_order(model)
        tensors, notes = weights_only(model)
        if not tensors:
            raise CheckpointError(f"{label}: {folder} holds no weights")
        self.buffers[reference] = notes
        self.known_order[reference] = known
        return replace(model, tensors=tensors)

    def baked(self, reference: Reference, dtype: str | None) -> ComputedModel:
        plain = reference.without_adapter
        self.labels.setdefault(plain, self.labels[reference].partition("+")[0])
        model = self.checkpoint(plain, dtype)
        folder = self.settings.find(reference.adapter or "", reference.adapter_revision)
        assert folder is not None
        label = self.labels[reference]
        adapter = read_adapter(folder, label.partition("+")[2])
        plan = plan_bake(
            model,
            adapter,
            dtype=dtype or promoted(info.dtype for info in model.tensors.values()),
            shard_bytes=self.settings.shard_bytes,
            label=f"bake {label}",
        )
        self.known_order[reference] = self.known_order[plain]
        self.buffers[reference] = list(plan.notes)
        place = model.folder
        if plan.unties:
            place = self.small_files(companions_of(model.folder), {}, unties=True)
        return computed_model(label, plan, place)

    def result(self, merge: Merge) -> ComputedModel:
        """The result of a named document as a model that is computed while it is read."""
        name = str(merge.name)
        if name not in self.results:
            plan, companions, changes = self.of_merge(merge)
            folder = self.small_files(companions, changes, unties=plan.unties)
            self.results[name] = computed_model(name, plan, folder)
        return self.results[name]

    def small_files(
        self, companions: Mapping[str, Path], changes: Mapping[str, Any], *, unties: bool
    ) -> Path:
        """A folder with the config and tokenizer of a model that is computed."""
        folder = self.folder / str(sum(1 for _ in self.folder.glob("*")))
        folder.mkdir(parents=True)
        for name, path in companions.items():
            if name == "config.json":
                config = {**config_of(path.parent), **changes}
                write_json(folder / name, untied(config) if unties else config)
            elif path.stat().st_size < 1 << 28 and not name.endswith((".safetensors", ".bin")):
                shutil.copyfile(path, folder / name)
        return folder

    def of_merge(self, merge: Merge) -> tuple[TablePlan, dict[str, Path], dict[str, Any]]:
        """Plan one document."""
        references = merge.merged()
        opened = [self.checkpoint(reference, merge.dtype) for reference in references]
        opened = self.fitted(merge, references, opened)
        aligned = align_heads(opened)
        labels = {reference: self.labels[reference] for reference in references}
        shared = self.one_vocabulary(merge, aligned.models, labels)
        models_now = aligned.models if shared is None else shared.models
        tensors = dict(zip(references, models_now, strict=True))
        headers = {labels[r]: model.tensors for r, model in tensors.items()}
        donor = tensors[references[0]]
        table = self.table(merge, headers, labels)
        by_label = {labels[r]: tensors[r] for r in references}
        if not self.settings.by_row and shared is None:
            free = {labels[r] for r, v in merge.vocabularies().items() if v in ("map", "rows")}
            token_rows = [row for row in table if row.tensor.endswith(TOKEN_TENSORS)]
            used = {source.model for row in token_rows for source in row.sources} - free
            check_tokens(merge, [by_label[n] for n in sorted(used)], donor, self.tokenizer(merge))
        models: dict[str, Model] = {}
        for reference in references:
            model = self.model(reference, merge.dtype)
            models[labels[reference]] = (
                replace(model, checkpoint=tensors[reference])
                if isinstance(model, ComputedModel)
                else tensors[reference]
            )
        notes = [n for r in references for n in self.buffers.get(r, [])] + aligned.notes
        plan = plan_table(
            table,
            models,
            shard_bytes=self.settings.shard_bytes,
            label=merge.name or "merge",
            notes=tuple(dict.fromkeys(notes)),
            unties=aligned.unties,
        )
        configs = {label: config_of(model.folder) for label, model in by_label.items()}
        config = configs[labels[references[0]]]
        changes = config_changes(config, table, donor, configs, merge.place)
        if shared is not None:
            notes += shared.notes
            plan = replace(plan, notes=tuple(dict.fromkeys(notes)))
            changes |= shared.config_changes
        moved = [self.digests[label] for label in by_label if label in self.digests]
        moved += [] if shared is None else [shared.digest]
        plan = replace(plan, vocabulary=" ".join(moved))
        companions = tokenizer_companions(
            merge,
            companions_of(donor.folder) if shared is None else shared.companions,
            self.tokenizer(merge) if shared is None else None,
            [tensors[r] for r in references],
            self.folder,
        )
        return plan, companions, changes

    def one_vocabulary(
        self, merge: Merge, models: Sequence[Checkpoint], labels: Mapping[Reference, str]
    ) -> OneVocabulary | None:
        """The models with the tokens that the document asks for; None if they have them."""
        if self.settings.by_row:
            return None
        choice = one_vocabulary(merge, models, labels)
        if choice is None:
            return None
        for model in models:
            if any(info.path == COMPUTED for info in model.tensors.values()):
                raise RecipeError(
                    f"{merge.place}: the tokens of {model.label} cannot be moved while it is "
                    "computed on the way; make it first, and name its folder"
                )
        return with_one_vocabulary(models, choice, self.folder / f"vocabulary-{merge.name or ''}")

    def fitted(
        self, merge: Merge, references: Sequence[Reference], opened: Sequence[Checkpoint]
    ) -> list[Checkpoint]:
        """The models with the rows that their rules for tokens leave them."""
        rules, first = merge.vocabularies(), opened[0]
        found = []
        for reference, model in zip(references, opened, strict=True):
            rule = rules.get(reference)
            if rule in ("truncate", "rows"):
                tensors, notes = truncated(model, first)
                model = replace(model, tensors=tensors)
                self.buffers.setdefault(reference, []).extend(notes)
            elif rule == "map":
                model = self.mapped(reference, model, first)
            found.append(model)
        return found

    def mapped(self, reference: Reference, model: Checkpoint, first: Checkpoint) -> Checkpoint:
        if any(info.path == COMPUTED for info in model.tensors.values()):
            raise RecipeError(
                f"{model.label}: vocabulary map reads files, and this model is computed on the "
                "way; leave out `fuse`"
            )
        full = as_head_of(first, config_of(first.folder), model)
        ours = as_head_of(model, config_of(model.folder), first)
        rows = map_vocabulary(ours, full, self.folder / "mapped")
        self.buffers.setdefault(reference, []).extend(rows.notes)
        self.digests[self.labels[reference]] = rows.digest
        return rows.model

    def tokenizer(self, merge: Merge) -> Checkpoint | None:
        """The model that the tokenizer is taken from, where the document names one."""
        if merge.tokenizer is None or not isinstance(merge.tokenizer.source, Reference):
            return None
        return self.checkpoint(merge.tokenizer.source, merge.dtype)

    def table(
        self, merge: Merge, headers: Mapping[str, Any], labels: Mapping[Reference, str]
    ) -> Table:
        rows: list[Row] = []
        for module in merge.modules:
            own = headers
            if module.name is not None:
                own = _of_module(merge, module, headers)
            slices = tuple(
                Slice(
                    tuple(Use(labels[u.model], u.layers, u.parameters) for u in part.sources),
                    None if part.base is None else labels[part.base],
                    part.parameters,
                )
                for part in module.slices
            )
            if len(slices) > 1:
                self.require_order(merge, module)
            rows += make_table(
                merge.method.name,
                slices,
                own,
                dtype=merge.dtype,
                base=None if merge.base is None else labels[merge.base],
                parameters=(module.parameters, {**merge.parameters, **_ratio(merge)}),
                defaults=merge.defaults,
                label=merge.place,
            ).rows
        self.check_filters(merge, rows)
        if merge.gradient is not None:
            self.require_counted(merge, merge.gradient)
            ratios = blend_ratios(merge.gradient, [row.tensor for row in rows])
            rows = [
                replace(row, parameters=(("ratio", ratio),))
                for row, ratio in zip(rows, ratios, strict=True)
            ]
        return Table(tuple(rows))

    def check_filters(self, merge: Merge, rows: Sequence[Row]) -> None:
        """Refuse a misspelt filter, and note one that lets no tensor pass: its value is unused."""
        levels = [merge.parameters]
        for module in merge.modules:
            levels.append(module.parameters)
            for part in module.slices:
                levels += [part.parameters, *(use.parameters for use in part.sources)]
        settings = [value for level in levels for value in level.values()]
        texts = dict.fromkeys(text for value in settings for text in filters_of(value))
        names = {source.tensor for row in rows for source in row.sources}
        parts = {part for name in names for part in name.split(".")}
        for text in texts:
            if any(text in name for name in names):
                continue
            close = nearest(text, parts)
            if close:
                raise RecipeError(f"{merge.place}: filter {shown(text)} matches no tensor{close}")
            self.notes.append(f"{merge.place}: filter {shown(text)} matches no tensor")

    def require_counted(self, merge: Merge, gradient: Gradient) -> None:
        first = merge.merged()[0]
        if gradient.along == "tensors" and not self.known_order[first]:
            raise RecipeError(
                f"{merge.place}: the order of the tensors of {printable(self.labels[first])} is "
                "not known, so none can be counted: use along: layers"
            )

    def require_order(self, merge: Merge, module: Module) -> None:
        """What stands before and after the layers is known only in state-dict order."""
        for part in (module.slices[0], module.slices[-1]):
            for use in part.sources:
                if not self.known_order[use.model]:
                    raise RecipeError(
                        f"{merge.place}: the order of the tensors of "
                        f"{printable(self.labels[use.model])} is not known (transformers does not "
                        "know them all by its config.json), so the tensors before and after its "
                        "layers cannot be told apart"
                    )


def _ratio(merge: Merge) -> dict[str, float]:
    """A stand-in for the ratio of a gradient merge, which follows from all of its tensors."""
    return {} if merge.gradient is None else {"ratio": 0.0}


def _of_module(merge: Merge, module: Module, headers: Mapping[str, Any]) -> dict[str, Any]:
    """The tensors that belong to a module: those whose name has its name as a part.

    `default` and `text_decoder` are what no other module of the document names.
    """
    others = [m.name for m in merge.modules if m.name not in (module.name, None)]
    rest = module.name in ("default", "text_decoder")

    def belongs(name: str) -> bool:
        parts = name.split(".")
        if rest:
            return not any(other in parts for other in others)
        return module.name in parts

    found = {
        label: {name: info for name, info in tensors.items() if belongs(name)}
        for label, tensors in headers.items()
    }
    if not any(found.values()):
        raise RecipeError(
            f"{merge.place.partition(': document')[0]}:{module.line}: no tensor belongs to the "
            f"module {shown(module.name)}; a module is a part of the names of its tensors, or "
            "`default`"
        )
    return found


def _expanded(path: str) -> Path:
    return Path(path).expanduser()
