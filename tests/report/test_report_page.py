"""The page: whole, self-contained, true to metrics.json, and calm about whatever is missing."""

from __future__ import annotations

import copy
import json
import os
import random
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from report.fake_run import fake_metrics, fake_run
from sparsight import SparsightError
from sparsight.report import write_report
from sparsight.report.numbers import Number, digits

HOSTILE = ("<script>alert(1)</script>", "\"><img src=x onerror='alert(1)'>", "$\\frac{", "../../outside", "{{ 7 * 7 }}")


class Page(HTMLParser):
    """Every tag with its attributes, and the text inside each <data>."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.data: list[tuple[dict[str, str | None], str]] = []
        self._open: dict[str, str | None] | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "data":
            self._open = dict(attrs)

    def handle_data(self, data: str) -> None:
        if self._open is not None:
            self.data.append((self._open, data))
            self._open = None


def at(value: Any, path: list[str]) -> Any:
    for key in path:
        value = value[int(key)] if isinstance(value, list) else value[key]
    return value


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake_run(tmp_path_factory.mktemp("report") / "run", count=8)


@pytest.fixture(scope="module")
def html(run: Path) -> str:
    path = write_report(run)
    assert path == run / "report.html"
    return path.read_text("utf-8")


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return fake_run(tmp_path / "small", ("Smiling",), count=8)


@pytest.fixture
def bare(tmp_path: Path) -> Any:
    """A run folder that holds nothing but these metrics."""

    def make(metrics: Any) -> Path:
        (tmp_path / "metrics.json").write_text(json.dumps(metrics))
        return tmp_path

    return make


def test_loads_nothing_from_elsewhere(html: str) -> None:
    for tag, attributes in Page(html).tags:
        for name in ("src", "href", "xlink:href", "srcset", "poster", "action"):
            assert (attributes.get(name) or "#").startswith(("#", "data:")), (tag, attributes)
    assert all(url.startswith(("data:", "#")) for url in re.findall(r"url\(['\"]?([^)]*)", html))
    assert "@import" not in html
    assert len(html) < 3_000_000


def test_every_figure_is_the_one_in_metrics_json(run: Path, html: str) -> None:
    metrics = json.loads((run / "metrics.json").read_text())
    shown = {}
    for attributes, text in Page(html).data:
        path = json.loads(attributes["data-path"] or "[]")
        assert float(attributes["value"] or "nan") == at(metrics, path), path
        assert text in {digits(at(metrics, path), unit) for unit in ("", "%", "fine")}
        shown[tuple(path)] = text
    for concept, facts in metrics["concepts"].items():
        for method, figures in facts["methods"].items():
            for key in set(figures) - {"classifiers", "worst_damage", "versus_casl", "alpha", "strength"}:
                assert ("concepts", concept, "methods", method, key, "value") in shown
            for judge in set(figures["classifiers"]) - {"resnet"}:
                assert ("concepts", concept, "methods", method, "classifiers", judge, "epr", "value") in shown
        assert ("concepts", concept, "sweep", "epr", "4", "5") in shown


@pytest.mark.parametrize(
    ("share", "said"), [(0.0, "0"), (0.004, "0.40"), (0.052, "5.2"), (0.5, "50"), (0.998, "99.8"), (1.0, "100")]
)
def test_shares_are_rounded_but_nearly_all_is_not_all(share, said):
    assert digits(share, "%") == f"{said}\u00a0%"


@pytest.mark.parametrize(
    ("ends", "text", "interval"),
    [
        ((8.1e-6, -0.003, 0.003), "0.000", "[−0.003, 0.003]"),
        ((-1e-4, -0.02, 0.0001), "0.000", "[−0.020, 0.000]"),
        ((8.1e-6, 7e-6, 9e-6), "8.1e−06", "[7.0e−06, 9.0e−06]"),
    ],
)
def test_what_is_tiny_is_nought_only_beside_what_is_not(ends, text, interval):
    found = Number((), *ends)
    assert (found.text, found.interval) == (text, interval)


def test_intervals_are_shown(run: Path, html: str) -> None:
    epr = json.loads((run / "metrics.json").read_text())["concepts"]["Smiling"]["methods"]["no_sae"]["epr"]
    assert f"[{digits(epr['low'])}, {digits(epr['high'])}]" in html


def test_images_controls_and_charts_are_there(html: str) -> None:
    tags = Page(html).tags
    assert sum(tag == "input" and a.get("type") == "range" for tag, a in tags) == 2
    ids = [a["id"] for _, a in tags if a.get("id")]
    assert len(ids) == len(set(ids)), "an id is used twice"
    targets = {(a["href"] or "")[1:] for tag, a in tags if tag == "a" and (a.get("href") or "").startswith("#")}
    assert targets <= set(ids)
    strips = set(re.findall(r"tile (s\d+)", html))
    assert strips and all(f".{strip}{{background-image" in html for strip in strips)
    assert sum(tag == "svg" for tag, _ in tags) == 2 + 2 + 4 + 1


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    metrics = fake_metrics(HOSTILE[:2])
    for i, name in enumerate(HOSTILE[2:]):
        metrics["concepts"][name] = {"methods": {name: {"epr": {"value": 2.0 + i, "low": 1, "high": 3, "n": 4}}}}
    metrics["names"], metrics["recipe"] = {HOSTILE[0]: HOSTILE[1]}, {"name": HOSTILE[0], "model": HOSTILE[1]}
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    (tmp_path / "run.json").write_text(json.dumps({"command": HOSTILE[0], "versions": {HOSTILE[1]: HOSTILE[0]}}))
    text = write_report(tmp_path).read_text("utf-8")
    tags = Page(text).tags
    assert [tag for tag, _ in tags].count("script") == 1 and not any(tag == "img" for tag, _ in tags)
    assert not any(name.startswith("on") for _, attributes in tags for name in attributes)
    assert "{{ 7 * 7 }}" in text


@pytest.mark.parametrize(
    "metrics", [{}, {"concepts": None}, {"concepts": {"a": None, "b": {"methods": {"casl": {"epr": None}}}}}]
)
def test_almost_nothing_is_still_a_page(bare: Any, metrics: Any) -> None:
    text = write_report(bare(metrics)).read_text("utf-8")
    assert "About this run" in text and "None" not in re.sub(r"(?s)<(style|script)>.*?</\1>", "", text)


def test_a_figure_without_value_is_a_dash_with_its_reason(bare: Any) -> None:
    methods = {
        "casl": {"epr": {"value": 2.0, "n": 3}, "flip_rate": {"value": None, "low": None, "high": None, "n": 0}},
        "no_sae": {},
    }
    text = write_report(bare({"concepts": {"a": {"methods": methods}}})).read_text("utf-8")
    assert "not defined on these images (n = 0)" in text and "not measured in this run" in text


def spoil(value: Any, rng: random.Random) -> Any:
    """`value` with about one entry in nine replaced by something that does not belong there."""
    if rng.random() < 0.11:
        return rng.choice([None, "x", [], {}, -1, [None], True])
    if isinstance(value, dict):
        return {key: spoil(entry, rng) for key, entry in value.items()}
    return [spoil(entry, rng) for entry in value] if isinstance(value, list) else value


def test_spoiled_files_never_crash(small: Path) -> None:
    spoiled = small
    whole = {p.relative_to(small): json.loads(p.read_text()) for p in small.rglob("*.json")}
    for seed in range(2):
        rng = random.Random(seed)
        for path, value in whole.items():
            (spoiled / path).write_text(json.dumps({k: spoil(v, rng) for k, v in value.items() if k != "schema"}
                                                   if isinstance(value, dict) else spoil(value, rng)))  # fmt: skip
        for sheet in rng.sample(sorted(spoiled.rglob("*.png")), 3):
            sheet.write_bytes(b"no image")
        assert "</html>" in write_report(spoiled).read_text("utf-8")


def test_unfinished_and_newer_runs_are_one_clear_error(tmp_path: Path, bare: Any) -> None:
    with pytest.raises(SparsightError, match="is not finished"):
        write_report(tmp_path)
    with pytest.raises(SparsightError, match="is no run folder"):
        write_report(tmp_path / "nowhere")
    with pytest.raises(SparsightError, match="schema 2"):
        write_report(bare({"schema": 2}))
    assert not (tmp_path / "report.html").exists()


def test_page_is_replaced_whole_or_not_at_all(bare: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    run = bare({})
    first = write_report(run).read_text("utf-8")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(SparsightError, match="No space left"):
        write_report(run)
    assert (run / "report.html").read_text("utf-8") == first
    assert sorted(p.name for p in run.iterdir()) == ["metrics.json", "report.html"]


def test_same_run_gives_the_same_page_elsewhere(bare: Any, tmp_path: Path) -> None:
    run = bare(fake_metrics(("Smiling",)))
    elsewhere = write_report(run, tmp_path / "sub" / "page.html")
    assert elsewhere.read_text("utf-8") == write_report(run).read_text("utf-8")


def test_best_is_bold_and_ties_are_marked(bare: Any) -> None:
    metrics = copy.deepcopy(fake_metrics(("Smiling",)))
    methods = metrics["concepts"]["Smiling"]["methods"]
    methods["casl"]["epr"]["value"], methods["no_sae"]["epr"]["value"] = 9.5, 9.1
    methods["casl"]["classifiers"]["resnet"]["epr"]["value"] = 9.5
    methods["no_sae"]["classifiers"]["resnet"]["epr"]["value"] = 9.1
    methods["no_sae"]["versus_casl"] = {"value": 1.04, "low": 0.9, "high": 1.2, "n": 32}
    text = write_report(bare(metrics)).read_text("utf-8")
    assert re.search(r'class="best">9\.50</data>', text)
    assert re.search(r">9\.10</data><sup class=\"tie\"", text)
    assert "clear of a tie in 0 of 1 concepts" in text


def test_importing_the_room_imports_no_torch() -> None:
    code = "import sys, sparsight.report; sys.exit('torch' in sys.modules or 'matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
