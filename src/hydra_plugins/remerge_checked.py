"""Gives Hydra the resolver `checked`, wherever `conf/` is composed: `checked: ${checked:}`.

It also guards the composition itself (`stages.composition`): Hydra has no hook for that, so its
loader is wrapped, and OmegaConf's resolvers that read the machine go.

Hydra imports the modules of the namespace `hydra_plugins` before it composes, also inside of
`dvc exp run`, which looks at no value itself.
"""

from __future__ import annotations

import copy
import sys
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from omegaconf import OmegaConf, open_dict

from remerge.errors import RecipeError
from remerge.stages.checking import check_composition
from remerge.stages.composition import guarded


def checked(*, _root_: Any) -> bool:
    """True, or the end of the process: the one way past OmegaConf and DVC that leaves one line."""
    whole = copy.deepcopy(_root_)
    with open_dict(whole):
        del whole["checked"]  # this value itself
    try:
        check_composition(OmegaConf.to_container(whole, resolve=True))
    except RecipeError as error:
        sys.exit(f"error: {error}")
    return True


OmegaConf.register_new_resolver("checked", checked, replace=True)

for _name in ("oc.env", "oc.decode", "oc.create"):
    OmegaConf.clear_resolver(_name)
if not hasattr(ConfigLoaderImpl.load_configuration, "__wrapped__"):
    ConfigLoaderImpl.load_configuration = guarded(ConfigLoaderImpl.load_configuration)
