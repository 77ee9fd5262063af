"""Write every sample below a folder: `python -m tests.faults.samples FOLDER`."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.faults.samples import every_sample, tries

for kind, samples in every_sample().items():
    folder = Path(sys.argv[1]) / kind
    folder.mkdir(parents=True, exist_ok=True)
    for name, write in samples.items():
        write(folder / name)
        print(f"{kind}/{name}: {tries(write)}")
