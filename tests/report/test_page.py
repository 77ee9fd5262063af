"""The report is one file that needs nothing from outside, whatever names it shows."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from remerge.report import rendering
from remerge.report.answers import answers_of
from remerge.report.build import Build, Scored, place_of
from remerge.report.numbers import decimal, points, size
from remerge.report.page import page
from tests.report.conftest import with_names


class Elements(HTMLParser):
    """The elements of a page, and whether every one is closed in its turn."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in ("meta", "br", "hr"):
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.found)


def test_the_page_needs_nothing_from_outside(small_build: Build) -> None:
    elements = Elements(page(small_build))
    assert elements.count("script") == elements.count("link") == elements.count("img") == 0
    for _, attributes in elements.found:
        assert not {"src", "srcset", "onclick", "onload"} & attributes.keys()
        assert (attributes.get("href") or "#").startswith("#")
    assert "url(" not in page(small_build)
    assert "@import" not in page(small_build)


def test_every_link_leads_to_a_section(small_build: Build) -> None:
    elements = Elements(page(small_build))
    ids = {attributes.get("id") for _, attributes in elements.found}
    links = [a["href"] for tag, a in elements.found if tag == "a"]
    assert len(links) == 6
    assert all(link and link[1:] in ids for link in links)


def test_every_picture_says_in_words_what_it_shows(small_build: Build) -> None:
    pictures = [a for tag, a in Elements(page(small_build)).found if tag == "svg"]
    assert len(pictures) > 8
    assert all(a["role"] == "img" and a["aria-label"] for a in pictures)


def test_untrusted_names_stay_text(small_build: Build, hostile_build: Build) -> None:
    plain, hostile = Elements(page(small_build)), Elements(page(hostile_build))
    assert hostile.count("script") == 0
    assert {tag for tag, _ in hostile.found} <= {tag for tag, _ in plain.found}
    assert not any(c in page(hostile_build) for c in ("\x1b", "\u202e"))


def test_who_won_and_what_was_lost_is_said(small_build: Build) -> None:
    text = " ".join(Elements(page(small_build)).text)
    assert "Stheno-mini" in text
    assert "70.0" in text
    assert "−20.0" in text  # addition: 70 against 90 of chronos
    assert "+2.0" in text  # sorting: 72 against 70 of hermes


def test_the_page_opens_with_a_verdict(small_build: Build) -> None:
    text = page(small_build)
    first = text[text.index('class="verdict"') :]
    assert first.index("Stheno-mini scores 71.0 % in the mean of 2 tasks") < first.index("tiles")
    assert "51.0 points above its base and 21.0 points above its best donor, chronos" in text
    assert "It beats its base at all of them and every donor at 1." in text
    assert text.index("dvc repro") < text.index('id="scores"')


def test_a_growth_within_two_standard_errors_shows_its_band(small_build: Build) -> None:
    quality = {"perplexity": 4.99, "reference_perplexity": 5.0, "divergence": 0.008, "tokens": 1600}
    formats = dict(small_build.formats)
    formats["gguf_q4_0"] = {**formats["gguf_q4_0"], "quality": {**quality, "agreement": 0.97}}
    # 2·√(2·0.008/1600) = 0.00632…
    assert "−0.20 ± 0.63 %" in page(replace(small_build, formats=formats))


def test_the_smallest_format_that_agrees_is_recommended(small_build: Build) -> None:
    quality = {
        "perplexity": 5.0,
        "reference_perplexity": 5.0,
        "divergence": 0.0,
        "agreement": 0.995,
    }
    formats = {n: {**m, "quality": dict(quality)} for n, m in small_build.formats.items()}
    text = page(replace(small_build, formats=formats))
    assert "take gguf_q4_0 (2.00 kB): the smallest that says the same token" in text
    formats["gguf_q4_0"]["quality"]["agreement"] = 0.9
    assert "take gguf_f16 (6.00 kB)" in page(replace(small_build, formats=formats))


def test_published_scores_are_compared_within_the_tolerance(small_build: Build) -> None:
    text = " ".join(Elements(page(small_build)).text)
    assert "within 0.6" in text  # addition: 70.0 against 70.5
    assert "not comparable" in text  # sorting, by the suite's note


def test_what_was_lost_by_quantisation_is_said(small_build: Build) -> None:
    text = " ".join(Elements(page(small_build)).text)
    assert "+10.00 %" in text
    assert "97.5 %" in text


def test_a_difference_that_is_shown_as_none_is_neither_gain_nor_loss(small_build: Build) -> None:
    final = small_build.role("final")[0]
    same = tuple(
        replace(model, result=final.result) if model.role in ("base", "donor") else model
        for model in small_build.scored
    )
    text = page(replace(small_build, scored=same))
    assert "<b>±0</b>" in text
    assert 'class="loss">±0' not in text


def test_both_parts_are_made_of_the_base(small_build: Build) -> None:
    flow = page(small_build).partition('class="flow"')[2]
    assert flow.index("base of both parts") < flow.index("→") < flow.index("TIES of chronos")


def test_a_map_of_sign_conflict_alone_is_not_said_to_show_what_was_kept(small_build: Build) -> None:
    text = page(small_build)
    assert "Where donors disagree</h4>" in text
    assert "what the trim kept" not in text


def test_a_build_without_scores_and_formats_has_a_page_too(small_build: Build) -> None:
    bare = replace(small_build, scored=(), formats={})
    ids = {attributes.get("id") for _, attributes in Elements(page(bare)).found}
    assert "scores" not in ids
    assert "merge" in ids
    assert "None: only the safetensors" in page(bare)
    assert "None: only the safetensors" not in page(small_build)


def test_answers_of_base_best_donor_and_result_are_shown(small_build: Build) -> None:
    text = page(small_build)
    table = text[text.index("What it answers") : text.index("All models")]
    heads = re.findall(r"<th scope=\"col\"[^>]*>([^<]*)</th>", table)
    assert heads == ["task", "question", "right answer", "base", "chronos", "Stheno-mini"]
    rows = [row for row in table.split("<tr>") if 'scope="row"' in row]
    assert len(rows) == 3
    assert "<code>addition 0?</code>" in rows[0] and "<code>chronos guesses</code> ✗" in rows[0]
    assert "<code>addition 0</code> ✓" in rows[0]


def test_questions_are_taken_where_the_result_won_and_lost(small_build: Build) -> None:
    tasks = ("a", "b", "c", "d")
    benchmarks = tuple(replace(small_build.suite.benchmarks[0], name=task) for task in tasks)

    def model(name: str, role: str, *scores: float) -> Scored:
        result = {**small_build.scored[0].result, "scores": dict(zip(tasks, scores, strict=True))}
        answers = {
            task: [{"question": task, "expected": "", "answer": name, "right": False}]
            for task in tasks
        }
        return Scored(name, role, "", result, answers)

    scored = (model("donor", "donor", 0.5, 0.5, 0.5, 0.5), model("x", "final", 0.6, 0.1, 0.9, 0.5))
    build = replace(
        small_build, suite=replace(small_build.suite, benchmarks=benchmarks), scored=scored
    )
    answers = answers_of(build)
    assert answers is not None
    assert [asked.task for asked in answers.questions] == ["c", "d", "b"]
    assert answers.models == ("donor", "Stheno-mini")
    without = tuple(replace(each, answers={}) for each in scored)
    assert answers_of(replace(build, scored=without)) is None


def test_the_picture_of_gains_and_losses_comes_before_all_numbers(small_build: Build) -> None:
    text = page(small_build)
    assert text.index('class="ranges"') < text.index('class="tiles"') < text.index("<main>")


def test_donors_that_nobody_scored_leave_a_table_of_the_others(small_build: Build) -> None:
    some = tuple(model for model in small_build.scored if model.role in ("part", "final"))
    text = " ".join(Elements(page(replace(small_build, scored=some))).text)
    assert "What the merge kept" not in text
    assert "p1" in text


def test_the_same_build_gives_the_same_bytes_under_another_hash_seed() -> None:
    code = (
        "from remerge.proof.diff import ModelDifference; import hashlib;"
        "from remerge.report.difference import difference_page;"
        "page = difference_page(ModelDifference((), ('a', 'b'), ('c',)), 'a', 'b');"
        "print(hashlib.sha256(page.encode()).hexdigest())"
    )
    runs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": "src"},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(runs) == 1


def test_pages_are_pure(small_build: Build) -> None:
    assert page(small_build) == page(small_build)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.text())
def test_no_name_becomes_an_element(small_build: Build, name: str) -> None:
    def shapes(build: Build) -> set[tuple[str, tuple[str, ...]]]:
        return {(tag, tuple(sorted(names))) for tag, names in Elements(page(build)).found}

    named = with_names(small_build, lambda old: f"{old}{name}")
    plain = with_names(small_build, lambda old: f"{old}x")
    assert shapes(named) <= shapes(small_build) | shapes(plain)


def test_numbers_are_written_for_reading() -> None:
    assert decimal(0.0045678) == "0.00457"
    assert decimal(-0.3) == "−0.300"
    assert decimal(0.0) == "0"
    assert decimal(1234567.0) == "1234567"
    assert points(0.0204) == "+2.0"
    assert points(-0.00001) == "±0"
    assert size(1_234_567) == "1.23 MB"
    assert decimal(1.5e-6) == "1.50·10⁻⁶"


def test_layer_and_kind_are_read_from_names() -> None:
    assert place_of("model.layers.12.self_attn.q_proj.weight") == (12, "self_attn.q_proj")
    assert place_of("transformer.h.3.attn.c_attn.bias") == (3, "attn.c_attn.bias")
    assert place_of("lm_head.weight") == (None, "lm_head")


def contrast(one: str, two: str) -> float:
    """The contrast of two colours as WCAG 2 defines it."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    dark, light = sorted((luminance(one), luminance(two)))
    return (light + 0.05) / (dark + 0.05)


def themes() -> list[dict[str, str]]:
    """The custom properties of the stylesheet, for light and for dark."""
    css = (Path(str(rendering.__file__)).parent / "templates" / "report.css").read_text()
    blocks = re.findall(r":root \{(.*?)\}", css, re.DOTALL)
    return [dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", block)) for block in blocks]


def test_text_is_legible_in_light_and_dark() -> None:
    light, dark = themes()
    assert light.keys() == dark.keys()
    for theme in (light, dark):
        for ground in ("paper", "surface"):
            assert contrast(theme["ink"], theme[ground]) >= 7
            for color in ("quiet", "accent", "gain", "loss"):
                assert contrast(theme[color], theme[ground]) >= 4.5
        for ramp in ("q", "d"):
            cells = [(theme[f"{ramp}{k}"], theme[f"{ramp}i{k}"]) for k in range(9)]
            assert all(contrast(ground, ink) >= 4.5 for ground, ink in cells)
