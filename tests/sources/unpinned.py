"""conf/ as it is before anybody runs `remerge pin`, whatever has been pinned since."""

from __future__ import annotations

import shutil
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
#: Sources of Stheno whose revision no record names.
UNKNOWN = ("airoboros", "kimiko", "limarp")


def unpinned_conf(folder: Path) -> Path:
    """A copy of conf/ in `folder` whose recipes of 13B have no pins that nobody recorded."""
    conf = shutil.copytree(ROOT / "conf", folder / "conf")
    for path in [conf / "pins" / f"{name}.yaml" for name in ("stheno_l2_13b", "llama2_13b_meta")]:
        text = path.read_text()
        document = yaml.safe_load(text)
        for name, entry in document["sources"].items():
            entry.pop("files", None)
            if name in UNKNOWN:
                entry["revision"] = None
        path.write_text(yaml.safe_dump(document, sort_keys=False))
    return conf
