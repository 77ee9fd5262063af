"""The two functions that Ray calls. They travel as code, not by name: a node that lacks this
package must be able to say so.
"""

from __future__ import annotations

from typing import Any


def look_from_node(question: dict[str, Any], node: str) -> Any:
    """`remerge.cluster.node.look` there, or the line that says why it cannot be loaded."""
    try:
        from remerge.cluster.node import Question, look

        return look(Question(**question), node)
    except Exception as error:
        return f"cannot load remerge.cluster ({type(error).__name__}: {error})"


def run_unit_on_node(plan: Any, index: int, arguments: dict[str, Any]) -> Any:
    """`remerge.cluster.node.run_unit` there, with the name of the node it ran on."""
    import ray

    from remerge.cluster.node import run_unit

    return ray.get_runtime_context().get_node_id(), run_unit(plan, index, **arguments)
