"""How much of a cluster a unit of work takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from remerge.errors import RecipeError


@dataclass(frozen=True)
class Execution:
    """Where units run and what each may take.

    address    HOST:PORT of the cluster's head, or `auto` for the cluster of this machine
    cpus       cores a unit takes, and threads it uses
    memory     bytes of a node's memory that a unit reserves, so that no more run there at once
               than fit; 0: none. What a unit takes beyond that is not stopped
    retries    how often a unit is tried again after its process or node died
    in_flight  units given out at once; None: what the nodes hold, and one more a node
    """

    address: str = "auto"
    cpus: int = 1
    memory: int = 0
    retries: int = 3
    in_flight: int | None = None

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Execution:
        """From a table of settings; entries of other backends are passed over."""
        known = {field.name for field in fields(cls)}
        made = cls(**{key: value for key, value in settings.items() if key in known})
        if made.cpus < 1 or made.memory < 0 or made.retries < 0 or (made.in_flight or 1) < 1:
            raise RecipeError(
                "execution: cpus and in_flight must be at least 1, memory and retries at least 0"
            )
        return made
