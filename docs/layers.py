"""Write the picture of the layers into docs/architecture.md: python docs/layers.py

The order is that of tests/setup/test_layers.py, which holds the code against it.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "architecture.md"
_PLACE = re.compile(r"<!-- layers -->.*?<!-- /layers -->", re.DOTALL)
sys.path.insert(0, str(ROOT))

from tests.setup.test_layers import FLOW  # noqa: E402 - the repository is no package


def picture() -> str:
    """The layers as a Mermaid flowchart, a box for each."""
    boxes = [f'  L{i}["{" · ".join(sorted(names))}"]' for i, names in enumerate(FLOW)]
    arrows = "  " + " --> ".join(f"L{i}" for i in range(len(FLOW)))
    return "\n".join(["```mermaid", "flowchart TB", *boxes, arrows, "```"])


def page() -> str:
    """The whole page with the picture filled in."""
    block = f"<!-- layers -->\n{picture()}\n<!-- /layers -->"
    return re.sub(
        r"<!-- layers -->.*?<!-- /layers -->", lambda _: block, PAGE.read_text(), flags=re.DOTALL
    )


if __name__ == "__main__":
    PAGE.write_text(page())
