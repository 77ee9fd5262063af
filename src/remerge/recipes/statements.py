"""What every merge method states about itself, for tables of parameters.

>>> STATEMENTS["slerp"].parameters

Reading a recipe needs names and ranges; which code merges decides nothing there. So the registry is
imported by name, and no stage that reads parameters depends on the code of methods it does not run.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from remerge.methods.method import Method

# Nobody who only reads a recipe waits for a compiler.
with importlib.import_module("remerge.kernels.compiled").compiled_on_first_use():
    STATEMENTS: dict[str, Method] = importlib.import_module("remerge.methods.registry").METHODS
