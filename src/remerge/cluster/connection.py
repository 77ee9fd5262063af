"""Getting hold of a cluster, and refusing one whose nodes would not make the same bytes."""

from __future__ import annotations

import importlib
import logging
import os
import secrets
import signal
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from remerge.cluster import remote
from remerge.cluster.node import Answer, Question, differences, fingerprint, nonce_path
from remerge.cluster.settings import Execution
from remerge.errors import ToolError, printable

#: What the extra `ray` asks for.
RAY = "ray==2.60.0"
#: Seconds that a node has to answer: it starts a process and loads numba.
ANSWER_SECONDS = 120
_CONNECT_SECONDS = 5


@dataclass(frozen=True)
class Node:
    """A node of the cluster; `slots` is how many units it can run at once."""

    id: str
    name: str
    slots: int
    read_rate: float = 0.0
    write_rate: float = 0.0


def load_ray() -> Any:
    """The package ray, or ToolError that names the extra."""
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise ToolError(
            f"execution.backend is ray, which cannot be loaded ({error}); it is the extra `ray`: "
            f"`make setup-dev` installs every extra as it is locked, `pip install {RAY}` this one"
        ) from None


@contextmanager
def connected(ray: Any, execution: Execution) -> Iterator[None]:
    """Be the cluster's driver while the block runs; ToolError when nothing answers there."""
    address = execution.address
    if address != "auto":
        _require_listener(address)
    host = address.partition(":")[0]
    loopback = {"_node_ip_address": host} if host.startswith("127.") else {}
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    main = threading.current_thread() is threading.main_thread()
    handlers = {s: signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)} if main else {}
    try:
        ray.init(
            address=address,
            log_to_driver=False,
            logging_level=logging.CRITICAL,
            namespace="remerge",
            **loopback,
        )
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ToolError(
            f"execution.address {address}: no Ray cluster can be reached ({reason}); "
            "start one with `ray start --head`, and a node on this machine"
        ) from None
    finally:
        # Ray's own handler ends the process at once; half-made shards would stay.
        for number, handler in handlers.items():
            signal.signal(number, handler)
    try:
        yield
    finally:
        ray.shutdown()


def _require_listener(address: str) -> None:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS).close()
    except (OSError, OverflowError, UnicodeError) as error:
        raise ToolError(
            f"execution.address {address}: nothing listens there ({error}); "
            "start the head with `ray start --head`"
        ) from None


def usable_nodes(ray: Any, execution: Execution) -> list[Node]:
    """The living nodes that can hold a unit; ToolError when there is none."""
    found, most = [], ""
    for entry in ray.nodes():
        if not entry["Alive"]:
            continue
        cpus = int(entry["Resources"].get("CPU", 0))
        memory = int(entry["Resources"].get("memory", 0))
        slots = cpus // execution.cpus
        if execution.memory:
            slots = min(slots, memory // execution.memory)
        name = f"{entry['NodeManagerHostname']} ({entry['NodeManagerAddress']})"
        most = most or f"{name} has {cpus} CPUs and {memory} bytes"
        if slots:
            found.append(Node(entry["NodeID"], name, slots))
    if not found:
        raise ToolError(
            f"no node of the cluster holds a unit of {execution.cpus} CPUs and {execution.memory} "
            f"bytes ({most or 'no node is alive'}); lower execution.cpus or execution.memory"
        )
    return sorted(found, key=lambda node: (node.name, node.id))


def admitted(ray: Any, nodes: Sequence[Node], folder: Path, files: dict[str, int]) -> list[Node]:
    """The nodes with the rates of storage that each sees, all reading and writing at once.

    A node that died before it could answer is left out. ToolError names the first node that sees
    other files or runs another version of what decides bytes. A few files named after a nonce
    appear in `folder` and vanish.
    """
    nonce = secrets.token_hex(16)
    path = nonce_path(folder, nonce)
    path.write_text(nonce)
    question = Question(str(Path.cwd()), str(folder.resolve()), nonce, files)
    try:
        answers = _ask(ray, nodes, question)
        for node, answer in zip(nodes, answers, strict=True):
            if answer is None:
                continue
            problem = answer if isinstance(answer, str) else _problem(path, node, answer)
            if problem:
                raise ToolError(
                    f"node {node.name}: {printable(problem, 300)}; all nodes need the same files "
                    "under the same paths and the same versions"
                )
    finally:
        for leftover in folder.glob(f"{path.name}*"):
            with suppress(FileNotFoundError):
                leftover.unlink()
    found = [
        Node(node.id, node.name, node.slots, answer.read_rate, answer.write_rate)
        for node, answer in zip(nodes, answers, strict=True)
        if answer is not None
    ]
    if not found:
        raise ToolError("every node of the cluster died before it could answer")
    return found


def _problem(path: Path, node: Node, answer: Answer) -> str:
    other = differences(fingerprint(), answer.fingerprint)
    if other:
        return f"runs {other}"
    if answer.problem:
        return f"does not see the same files: {answer.problem}"
    if not path.with_name(f"{path.name}-{node.id}").exists():
        return f"does not see the same files: what it wrote in {path.parent} is not here"
    return ""


def _ask(ray: Any, nodes: Sequence[Node], question: Question) -> list[Any]:
    affinity = importlib.import_module(
        "ray.util.scheduling_strategies"
    ).NodeAffinitySchedulingStrategy
    look = by_value(ray, remote.look_from_node)
    calls = [
        look.options(
            num_cpus=0, max_retries=0, scheduling_strategy=affinity(node_id=node.id, soft=False)
        ).remote(asdict(question), node.id)
        for node in nodes
    ]
    ray.wait(calls, num_returns=len(calls), timeout=ANSWER_SECONDS)
    answers = []
    for node, call in zip(nodes, calls, strict=True):
        try:
            answers.append(ray.get(call, timeout=0.1))
        except ray.exceptions.RayError as error:
            alive = {entry["NodeID"] for entry in ray.nodes() if entry["Alive"]}
            if node.id not in alive or isinstance(error, ray.exceptions.TaskUnschedulableError):
                answers.append(None)
                continue
            raise ToolError(
                f"node {node.name} does not answer when it is looked at: {why_lost(error)}; repair "
                "or remove the node and run it again: finished shards are kept"
            ) from None
    return answers


def why_lost(error: Exception) -> str:
    """A few words for what Ray raises when a call on a node comes to nothing."""
    reasons = {
        "OutOfMemoryError": "its node ran out of memory and Ray stopped it",
        "WorkerCrashedError": "its process died (killed, or out of memory)",
        "NodeDiedError": "its node died",
        "GetTimeoutError": f"no answer within {ANSWER_SECONDS} s",
    }
    kind = type(error).__name__
    return reasons.get(kind, kind)


def by_value(ray: Any, function: Any) -> Any:
    """`function` of `remerge.cluster.remote` as Ray's, travelling as code."""
    ray.cloudpickle.register_pickle_by_value(remote)
    return ray.remote(function)
