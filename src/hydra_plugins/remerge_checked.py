"""Gives Hydra the resolver `derived` and this project's reading of overrides, wherever it composes.

Hydra imports the modules of the namespace `hydra_plugins` before it composes, also inside of
`dvc exp run`, which looks at no value itself. A folder whose `config.yaml` derives nothing is
composed by Hydra alone.
"""

from __future__ import annotations

from stages.composition import install

install()
