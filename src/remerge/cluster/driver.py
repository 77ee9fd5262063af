"""The driver: gives units out, takes their reports, checks every file against its report.

A unit whose process or node died, or whose file is not what it reported, is given out again; a
shard that is finished and checked never is, not even by the next driver after this one was killed.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from remerge import errors
from remerge.cluster import remote
from remerge.cluster.connection import (
    Node,
    admitted,
    by_value,
    connected,
    usable_nodes,
    why_lost,
)
from remerge.cluster.estimate import known_rate, note_rate, plan_text
from remerge.cluster.footprint import Footprint, footprint, input_files, inputs_by_tensor
from remerge.cluster.node import UNIT_PREFIX, UnitReport, fingerprint
from remerge.cluster.settings import Execution
from remerge.errors import RemergeError, ToolError, printable
from remerge.progress import Bar, track
from remerge.shards.units import Plan, TensorRecord, recover_shard
from remerge.tensors.layout import Shard

#: Seconds for which no node may be left before that is an error, and between looks at the nodes.
_WITHOUT_NODES = 30.0
_LOOK_EVERY = 2.0
#: Tries to see a file that another node has just renamed: NFS remembers that it was not.
_SETTLE_TRIES = 4
_VERIFIERS = 4


@dataclass(frozen=True)
class ClusterShards:
    """`make_shards` of `build` on a cluster: the same files in the folder as `build_shards`."""

    execution: Execution
    ray: Any

    def __call__(self, plan: Plan, folder: Path, threads: int) -> list[TensorRecord]:
        """Make the plan's shards in `folder`, which every node sees; `threads` check them here."""
        folder = folder.resolve()
        folder.mkdir(parents=True, exist_ok=True)
        _sweep(folder)
        with track(sum(shard.nbytes for shard in plan.shards), plan.label) as bar:
            with ThreadPoolExecutor(threads) as pool:
                results = pool.map(lambda s: recover_shard(s, folder, bar), plan.shards)
                finished = {i: r for i, r in enumerate(results) if r is not None}
            missing = [i for i in range(len(plan.shards)) if i not in finished]
            if missing:
                finished |= self._run(plan, folder, missing, bar)
        return [record for i in range(len(plan.shards)) for record in finished[i]]

    def _run(
        self, plan: Plan, folder: Path, missing: Sequence[int], bar: Bar
    ) -> dict[int, list[TensorRecord]]:
        inputs = inputs_by_tensor(plan)
        prints = [footprint(inputs, plan.shards[i]) for i in missing]
        # Leaving the cluster ends this driver's processes on every node. (Cancelling unit by unit
        # can end the driver too: Ray 2.60 aborts when a cancelled task answers after all.)
        with _swept(folder), connected(self.ray, self.execution):
            nodes = usable_nodes(self.ray, self.execution)
            nodes = admitted(self.ray, nodes, folder, input_files(inputs))
            rate = known_rate(folder.parent, plan)
            kept = len(plan.shards) - len(missing)
            _say(plan_text(plan.label, nodes, prints, kept, rate))
            hand_out = _HandOut(self.ray, self.execution, plan, folder, nodes, bar)
            try:
                finished = hand_out.run(missing)
            finally:
                hand_out.verifiers.shutdown(cancel_futures=True)
        if hand_out.seconds:
            note_rate(folder.parent, plan, _total(prints) / hand_out.seconds)
        return finished


def _total(prints: Sequence[Footprint]) -> int:
    return sum(unit.read + unit.written for unit in prints)


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


@contextmanager
def _swept(folder: Path) -> Iterator[None]:
    try:
        yield
    finally:
        _sweep(folder)


def _sweep(folder: Path) -> None:
    """Remove what units that died have left; one that still runs fails and is not missed."""
    for leftover in folder.glob(f"{UNIT_PREFIX}*"):
        shutil.rmtree(leftover, ignore_errors=True)


class _HandOut:
    """Units given out, their attempts, and the checks of their files."""

    def __init__(
        self,
        ray: Any,
        execution: Execution,
        plan: Plan,
        folder: Path,
        nodes: Sequence[Node],
        bar: Bar,
    ) -> None:
        self.ray, self.execution, self.plan, self.folder, self.bar = (
            ray,
            execution,
            plan,
            folder,
            bar,
        )
        self.names = {node.id: node.name for node in nodes}
        slots = sum(node.slots for node in nodes)
        self.cap = execution.in_flight or slots + len(nodes)
        self.attempts: Counter[int] = Counter()
        self.seconds = 0.0
        self.given: dict[Any, int] = {}
        self.verifiers = ThreadPoolExecutor(_VERIFIERS)
        self._arguments: dict[str, Any] = {
            "root": str(Path.cwd()),
            "folder": str(folder),
            "threads": execution.cpus,
            "expected": fingerprint(),
        }
        # Stored once and fetched once by each node: tables of names and offsets, no weights.
        self._plan = ray.put(plan)
        resources = {"memory": execution.memory} if execution.memory else {}
        self._unit = by_value(ray, remote.run_unit_on_node).options(
            num_cpus=execution.cpus, max_retries=0, scheduling_strategy="SPREAD", **resources
        )

    def run(self, indexes: Sequence[int]) -> dict[int, list[TensorRecord]]:
        """Give the units out until every shard is in its place and checked."""
        waiting = deque(indexes)
        checks: dict[Future[list[TensorRecord] | None], tuple[int, UnitReport, str]] = {}
        finished: dict[int, list[TensorRecord]] = {}
        while len(finished) < len(indexes):
            while waiting and len(self.given) < self.cap:
                self._give(waiting.popleft())
            for index, node, report in self._taken(wait=0.05 if checks else 1.0):
                if report is None:
                    waiting.append(index)
                    continue
                check = self.verifiers.submit(verified, self.plan.shards[index], self.folder)
                checks[check] = (index, report, node)
            for check in [check for check in checks if check.done()]:
                index, report, node = checks.pop(check)
                if check.result() == list(report.records):
                    finished[index] = list(report.records)
                    self.seconds += report.seconds
                    self.bar.advance(self.plan.shards[index].nbytes)
                else:
                    self._lost(index, f"what {node} wrote is not what it reported")
                    waiting.append(index)
            self._require_nodes()
        return finished

    def _give(self, index: int) -> None:
        self.attempts[index] += 1
        self.given[self._unit.remote(self._plan, index, self._arguments)] = index

    def _taken(self, wait: float) -> list[tuple[int, str, UnitReport | None]]:
        """Units that came back: number, node and report, None for one that was lost."""
        if not self.given:
            time.sleep(wait)
            return []
        done, _ = self.ray.wait(list(self.given), num_returns=len(self.given), timeout=wait)
        taken: list[tuple[int, str, UnitReport | None]] = []
        for call in done:
            index = self.given.pop(call)
            try:
                node, report = self.ray.get(call)
            except self.ray.exceptions.RayTaskError as error:
                cause = printable(str(error).strip().splitlines()[-1], 300)
                raise ToolError(f"{self._name(index)}: {cause}") from None
            except self.ray.exceptions.RayError as error:
                full = isinstance(error, self.ray.exceptions.OutOfMemoryError)
                hint = " (a larger execution.memory runs fewer at once)" if full else ""
                self._lost(index, why_lost(error) + hint)
                taken.append((index, "", None))
                continue
            name = self.names.get(node, node[:8])
            if report.error is not None:
                raise _as_here(report.error, name)
            taken.append((index, name, report))
        return taken

    def _lost(self, index: int, why: str) -> None:
        tried = self.attempts[index]
        if tried > self.execution.retries:
            raise ToolError(
                f"{self._name(index)}: {why}; tried {tried} times (execution.retries is "
                f"{self.execution.retries}); finished shards are kept"
            )
        _say(f"{self._name(index)}: {why}; given out again")

    def _name(self, index: int) -> str:
        return f"{self.plan.label}: {self.plan.shards[index].file}"

    _looked = 0.0
    _last_seen = 0.0

    def _require_nodes(self) -> None:
        """ToolError when no node that could hold a unit has been there for a while."""
        now = time.monotonic()
        if now - self._looked < _LOOK_EVERY:
            return
        self._looked = now
        try:
            usable_nodes(self.ray, self.execution)
            self._last_seen = now
        except ToolError:
            self._last_seen = self._last_seen or now
            if now - self._last_seen > _WITHOUT_NODES:
                raise


def verified(shard: Shard, folder: Path) -> list[TensorRecord] | None:
    """The records of a shard whose every byte, read here, has the digests in them."""
    with track(0, "") as unseen:
        for left in reversed(range(_SETTLE_TRIES)):
            records = recover_shard(shard, folder, unseen)
            if records is not None or not left:
                return records
            time.sleep(0.5)
    return None


def _as_here(error: tuple[str, str], node: str) -> RemergeError:
    """The error of a unit as the class that it has here, with the node's name."""
    kind, line = error
    found = getattr(errors, kind, ToolError)
    made = found if isinstance(found, type) and issubclass(found, RemergeError) else ToolError
    return made(f"node {node}: {line}")
