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
    for path in [*conf.glob("base/*.yaml"), conf / "recipe" / "stheno_l2_13b_sources.yaml"]:
        text = path.read_text()
        head = "# @package recipe\n" if text.startswith("# @package recipe") else ""
        document = yaml.safe_load(text)
        for name, entry in document["sources"].items():
            entry.pop("files", None)
            if name in UNKNOWN:
                entry["revision"] = None
        path.write_text(head + yaml.safe_dump(document, sort_keys=False))
    return conf
