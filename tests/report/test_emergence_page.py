"""The page of an emergence run: whole, self-contained, true to metrics.json, and calm about whatever is missing."""

from __future__ import annotations

import json
import random
import re
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from report.fake_emergence import STAGES, fake_metrics, fake_run
from report.test_report_page import HOSTILE, Page, at, spoil
from sparsight.report import write_report
from sparsight.report.emergence.charts import spread
from sparsight.report.emergence.headline import cards, verdict
from sparsight.report.numbers import digits

SECTIONS = ("emergence", "film", "latents", "layout", "style", "evolution", "saes", "about")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake_run(tmp_path_factory.mktemp("emergence") / "run")


@pytest.fixture(scope="module")
def html(run: Path) -> str:
    return write_report(run).read_text("utf-8")


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return fake_run(tmp_path / "small", sites=("mid_block.attentions.0:update",), ks=(10,), between=False)


def sections(text: str) -> list[str]:
    return [str(a["id"]) for tag, a in Page(text).tags if tag in ("section", "footer") and a.get("id")]


def words(text: str) -> str:
    return re.sub(r"(?s)<(style|script)>.*?</\1>|<[^>]*>", " ", text)


def rewrite(run: Path, metrics: Any) -> str:
    (run / "metrics.json").write_text(json.dumps(metrics))
    return write_report(run).read_text("utf-8")


def test_every_section_is_there_and_linked(html: str) -> None:
    assert sections(html) == list(SECTIONS)
    for name in SECTIONS:
        assert f'href="#{name}"' in html
    ids = [a["id"] for _, a in Page(html).tags if a.get("id")]
    assert len(ids) == len(set(ids)), "an id is used twice"


def test_loads_nothing_from_elsewhere(html: str) -> None:
    for tag, attributes in Page(html).tags:
        for name in ("src", "href", "xlink:href", "srcset", "poster", "action"):
            assert (attributes.get(name) or "#").startswith(("#", "data:")), (tag, attributes)
    assert all(url.startswith(("data:", "#")) for url in re.findall(r"url\(['\"]?([^)]*)", html))
    assert "@import" not in html


def test_every_figure_is_the_one_in_metrics_json(run: Path, html: str) -> None:
    metrics, shown = json.loads((run / "metrics.json").read_text()), set()
    for attributes, text in Page(html).data:
        path = json.loads(attributes["data-path"] or "[]")
        assert float(attributes["value"] or "nan") == at(metrics, path), path
        assert text in {digits(at(metrics, path), unit) for unit in ("", "%")}
        shown.add(tuple(path))
    for stage in STAGES:
        for key in ("composition_iou", "spatial_success", "global_success"):
            assert (key, stage, "value") in shown
        assert ("composition_iou", stage, "mean_map") in shown and ("spatial_success", stage, "chance") in shown
        for method in ("concept", "random_latents", "random_directions"):
            assert ("layout", "stages", stage, method, "value") in shown
            assert ("style", "stages", stage, method, "success", "value") in shown
        assert ("layout", "stages", stage, "concept", "by_object", "ice cream") in shown
        assert ("style", "stages", stage, "styles", "pencil", "concept", "after", "value") in shown
    for name in metrics["composition"]:
        assert ("composition", name, "value") in shown, name
    for name, stamps in metrics["saes"].items():
        for t in stamps:
            assert ("saes", name, t, "explained_variance") in shown


def test_pictures_have_words_and_strips_exist(html: str) -> None:
    tags = Page(html).tags
    strips = set(re.findall(r"tile (s\d+)", html))
    assert strips and all(f".{strip}{{background-image" in html for strip in strips)
    tiles = [a for tag, a in tags if tag == "span" and "tile s" in (a.get("class") or "")]
    assert all(a.get("aria-label") or a.get("aria-hidden") for a in tiles)
    assert "predicted composition at step 1, “a cat and a car”" in html and "annotated objects: cat, car" in html
    assert "ice cream, middle, top-right" in html
    assert sum(tag == "svg" for tag, _ in tags) == 2 + 1 + 2 * 2
    assert all(a.get("aria-label") for tag, a in tags if tag == "svg")


def test_the_verdict_is_what_the_intervals_say() -> None:
    metrics = fake_metrics()
    for stage, low in (("early", 0.9), ("middle", 0.1), ("final", 0.9)):
        metrics["spatial_success"][stage] = {"value": 0.95, "low": low, "high": 0.99, "n": 9, "chance": 0.25}
    said = dict(verdict(cards(metrics)))
    assert said["Move an object"].endswith("chance at the early and final stages.")
    for stage in STAGES:
        metrics["spatial_success"][stage]["low"] = 0.2
    assert "at no stage" in dict(verdict(cards(metrics)))["Move an object"]


def test_a_smaller_recipe_has_a_page_too(small: Path) -> None:
    text = write_report(small).read_text("utf-8")
    assert "One SAE across time" not in text and "The SAEs across time" not in text
    assert sections(text) == list(SECTIONS)


@pytest.mark.parametrize(
    ("gone", "section"),
    [("composition", "emergence"), ("evolution", "evolution"), ("saes", "saes"), ("gallery", "film"), ("gallery", "latents")],
)  # fmt: skip
def test_what_is_missing_drops_its_section(small: Path, gone: str, section: str) -> None:
    metrics = json.loads((small / "metrics.json").read_text())
    metrics.pop(gone, None)
    if gone == "gallery":
        shutil.rmtree(small / "gallery")
    text = rewrite(small, metrics)
    assert section not in sections(text) and f'href="#{section}"' not in text
    assert "None" not in words(text)


def test_tables_stay_without_pictures_and_pictures_without_tables(small: Path) -> None:
    metrics = json.loads((small / "metrics.json").read_text())
    shutil.rmtree(small / "layout")
    assert "layout" in sections(rewrite(small, metrics))
    for part in ("layout", "style"):
        metrics.pop(part)
    found = sections(rewrite(small, metrics))
    assert "layout" not in found and "style" in found
    shutil.rmtree(small / "style")
    assert "style" not in sections(rewrite(small, metrics))


@pytest.mark.parametrize("metrics", [{}, {"composition": None, "layout": [], "style": {"stages": {"early": None}}}])
def test_almost_nothing_is_still_a_page(tmp_path: Path, metrics: dict[str, Any]) -> None:
    text = rewrite(tmp_path, {"experiment": "emergence", **metrics})
    assert "About this run" in text and "None" not in words(text)


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    run = fake_run(tmp_path / "run")
    swaps = {"cat": HOSTILE[0], "night": HOSTILE[1], "pencil": HOSTILE[4], "a cat and a car": HOSTILE[0],
             "#2f7fc1": "red;background:url(http://x)", "mid_block.attentions.0:update": HOSTILE[1] + HOSTILE[2]}  # fmt: skip
    for path in run.rglob("*.json"):
        text = path.read_text()
        for name, hostile in swaps.items():
            text = text.replace(json.dumps(name), json.dumps(hostile))
        path.write_text(text)
    (run / "run.json").write_text(json.dumps({"command": HOSTILE[0], "versions": {HOSTILE[1]: HOSTILE[0]}}))
    page = write_report(run).read_text("utf-8")
    tags = Page(page).tags
    assert [tag for tag, _ in tags].count("script") == 1 and not any(tag == "img" for tag, _ in tags)
    assert not any(name.startswith("on") for _, attributes in tags for name in attributes)
    assert "http://x" not in page and "{{ 7 * 7 }}" in page


def test_spoiled_files_never_crash(tmp_path: Path) -> None:
    run = fake_run(tmp_path / "run")
    whole = {p: json.loads(p.read_text()) for p in run.rglob("*.json")}
    for seed in range(4):
        rng = random.Random(seed)
        for path, value in whole.items():
            spoiled = {k: spoil(v, rng) for k, v in value.items()}
            path.write_text(json.dumps(spoiled | ({"experiment": "emergence"} if path.name == "metrics.json" else {})))
        for sheet in rng.sample(sorted(run.rglob("*.png")), 4):
            sheet.write_bytes(b"no image")
        assert "</html>" in write_report(run).read_text("utf-8")


def test_names_beside_lines_never_touch() -> None:
    places = spread([0.0, 0.01, 0.02, 0.5, 0.99, 1.0], 0.1, 0.0, 1.0)
    assert all(b - a >= 0.1 - 1e-9 for a, b in pairwise(places))
    assert max(places) <= 1.0 and min(places) >= 0.0


def test_what_calibration_tried_is_told_and_what_it_took_is_marked(small: Path) -> None:
    metrics = json.loads((small / "metrics.json").read_text())
    assert "tried on validation images before" not in words(rewrite(small, metrics))
    rates = {"early": 0.81, "middle": 0.33, "final": 0.21}
    taken = {
        "by": "entries",
        "share": 0.0,
        "most": 0,
        "normaliser": "norm",
        "scope": "cond",
        "k": 10,
        "strength": 2.0,
        "stages": rates,
    }
    metrics["calibration"] = {"layout": [{**taken, "normaliser": "none"}, taken], "style": []}
    html = rewrite(small, metrics)
    table = html[html.index("tried on validation images before") :].split("</table>")[0]
    rows = [re.findall(r"<td( class=\"ours\")?>([^<]*)</td>", row) for row in table.split("<tr>")[2:]]
    assert [[bool(mark) for mark, _ in row] for row in rows] == [[False] * 10, [True] * 10]
    assert [cell for _, cell in rows[1]] == [
        "entries",
        "0.0",
        "all",
        "norm",
        "cond",
        "10",
        "2.0",
        "81 %",
        "33 %",
        "21 %",
    ]
