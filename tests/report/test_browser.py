"""The report in a real browser: it renders without an error, in light and dark, on a phone too."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from remerge.report.build import Build
from remerge.report.page import page

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--enable-logging=stderr",
)
#: What a visitor would see, measured in the page itself.
PROBE = """
const shown = e => { const r = e.getBoundingClientRect(); return r.width > 0 && r.height > 0 };
const svgs = [...document.querySelectorAll('svg')];
const cut = svgs.flatMap(s => { const b = s.getBoundingClientRect();
  return [...s.querySelectorAll('text')].filter(t => { const r = t.getBoundingClientRect();
    return r.left < b.left - 1 || r.right > b.right + 1 || r.top < b.top - 1 })
    .map(t => t.textContent) });
const fill = s => { const e = document.querySelector(s); return e && getComputedStyle(e).fill };
const letters = svgs.flatMap(s => [...s.querySelectorAll('text')].map(t =>
  parseFloat(getComputedStyle(t).fontSize) * s.getBoundingClientRect().width
  / s.viewBox.baseVal.width));
parent.postMessage(JSON.stringify({smallest: Math.min(...letters),
  width: innerWidth, overflow: document.documentElement.scrollWidth,
  ground: getComputedStyle(document.body).backgroundColor,
  ink: getComputedStyle(document.body).color, cell: fill('figure rect'), cut: cut,
  pictures: svgs.length, drawn: svgs.filter(shown).length,
  heading: document.querySelector('h1').textContent}), '*');
"""
#: Around the report: headless Chromium has no window that is as narrow as a phone.
FRAME = """<!doctype html><style>body{margin:0}iframe{border:0;height:900px}</style>
<script>addEventListener('message', e =>
  document.documentElement.setAttribute('data-seen', e.data))</script>
<iframe src="probed.html" style="width:WIDTHpx"></iframe>"""


def run_chromium(target: Path, folder: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    assert CHROMIUM is not None
    return subprocess.run(
        [CHROMIUM, *FLAGS, f"--user-data-dir={folder / 'profile'}", *flags, target.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )


def look(build: Build, folder: Path, *, dark: bool = False, width: int = 1200) -> dict[str, Any]:
    """What the probe measures, run in the report inside a frame of the wanted width."""
    text = re.sub(r"<meta http-equiv[^>]*>", "", page(build))
    (folder / "probed.html").write_text(text.replace("</body>", f"<script>{PROBE}</script></body>"))
    scheme = "--blink-settings=preferredColorScheme=0" if dark else "--disable-notifications"
    (folder / "frame.html").write_text(FRAME.replace("WIDTH", str(width)))
    seen = run_chromium(
        folder / "frame.html", folder, scheme, "--window-size=1300,900", "--dump-dom"
    )
    assert "CONSOLE" not in seen.stderr
    match = re.search(r'data-seen="([^"]*)"', seen.stdout)
    assert match
    found: dict[str, Any] = json.loads(unescape(match.group(1)))
    return found


def test_the_report_renders_as_it_is_without_a_message(small_build: Build, tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text(page(small_build))
    picture = tmp_path / "report.png"
    done = run_chromium(tmp_path / "index.html", tmp_path, f"--screenshot={picture}")
    assert "CONSOLE" not in done.stderr
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert picture.stat().st_size > 20_000


def test_every_picture_is_drawn_and_no_label_is_cut(small_build: Build, tmp_path: Path) -> None:
    seen = look(small_build, tmp_path)
    assert seen["heading"] == "Stheno-mini"
    assert seen["drawn"] == seen["pictures"] > 8
    assert seen["cut"] == []
    assert seen["overflow"] <= seen["width"]


def test_dark_and_light_have_colours_of_their_own(small_build: Build, tmp_path: Path) -> None:
    light, dark = look(small_build, tmp_path), look(small_build, tmp_path, dark=True)
    assert light["ground"] == "rgb(246, 245, 242)"
    assert dark["ground"] == "rgb(16, 19, 22)"
    assert light["ink"] != dark["ink"]
    assert light["cell"] != dark["cell"]


@pytest.mark.parametrize("layers", [3, 40])
def test_a_phone_scrolls_in_one_direction_and_shows_legible_pictures(
    layers: int, small_build: Build, tmp_path: Path
) -> None:
    build = small_build if layers == 3 else deepened(small_build, layers)
    seen = look(build, tmp_path, width=375)
    assert seen["width"] == 375
    assert seen["overflow"] <= seen["width"]
    assert seen["smallest"] >= 9


def test_hostile_names_run_nothing(hostile_build: Build, tmp_path: Path) -> None:
    seen = look(hostile_build, tmp_path)
    assert seen["heading"].startswith("Stheno-mini</title><script>")


@pytest.mark.full
def test_a_model_of_forty_layers_renders_too(small_build: Build, tmp_path: Path) -> None:
    seen = look(deepened(small_build, 40), tmp_path)
    assert seen["drawn"] == seen["pictures"]
    assert seen["cut"] == []


def deepened(build: Build, layers: int) -> Build:
    """`build` with each layer's tensors repeated until there are `layers` of them."""

    def deep(manifest: dict[str, Any]) -> dict[str, Any]:
        pattern = re.compile(r"(model\.layers\.)0(\..*)")
        inside = [m for name in manifest["order"] if (m := pattern.match(name))]
        outside = [name for name in manifest["order"] if "layers" not in name]
        copies = {
            f"{m[1]}{layer}{m[2]}": manifest["tensors"][m[0]]
            for layer in range(layers)
            for m in inside
        }
        first, *last = outside
        tensors = {name: manifest["tensors"][name] for name in outside} | copies
        order = [first, *copies, *last]
        return {**manifest, "tensors": tensors, "order": order}

    return replace(build, merges={part: deep(dict(m)) for part, m in build.merges.items()})
