"""Gives Hydra the resolver `derived` and this project's reading of overrides, wherever it composes.

It also guards the composition itself (`stages.composition`): Hydra has no hook for that, so its
loader is wrapped, and OmegaConf's resolvers that read the machine go.

Hydra imports the modules of the namespace `hydra_plugins` before it composes, also inside of
`dvc exp run`, which looks at no value itself. A folder whose `config.yaml` derives nothing is
composed by Hydra alone.
"""

from __future__ import annotations

from remerge.stages.composition import install

install()
