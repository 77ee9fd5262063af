"""Bytes and times for people. Decides no byte of any artefact.

>>> size(26_032_000_000), duration(5400)
('26.03 GB', '90 min')
"""

from __future__ import annotations


def size(count: float) -> str:
    """Format a number of bytes in decimal units, as disks are sold."""
    return f"{count / 1e9:.2f} GB" if count >= 10**7 else f"{count / 1e6:.2f} MB"


def duration(seconds: float) -> str:
    """Format a number of seconds, as coarse as it is long."""
    if seconds == float("inf"):
        return "an unknown time"
    if seconds < 120:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
