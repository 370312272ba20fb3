"""The figures of the page: IoU by block and stage, across time, and the cohesion of the dictionaries."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from sparsight.report.emergence.charts import Line, Plot, limits_of, line_chart
from sparsight.report.emergence.sites import STAGES, entries, readings, short_site
from sparsight.report.numbers import Number, read_number
from sparsight.report.run_files import number

TICKS = [(float(i), stage) for i, stage in enumerate(STAGES)]
EVOLUTION = (("cohesion", "Cohesion"), ("similarity", "Similarity between concepts"))


def by_stage(metrics: dict[str, Any], **wanted: Any) -> list[tuple[float, Number]]:
    """The IoU of one way of reading at each stage."""
    found = readings(metrics, **wanted)
    return [(x, read_number(metrics, "composition", name))
            for x, stage in TICKS for name, f in found.items() if f.get("stage") == stage]  # fmt: skip


def sites_and_ks(metrics: dict[str, Any]) -> tuple[list[str], list[Any]]:
    """The sites and the ks of the SAEs that were read, as metrics.json orders them."""
    found = list(readings(metrics, kind="sae").values())
    return list(dict.fromkeys(str(f.get("site")) for f in found)), list(dict.fromkeys(f.get("k") for f in found))


def emergence_charts(metrics: dict[str, Any]) -> tuple[list[tuple[str, Markup]], Any]:
    """A panel for each block, and the k that is drawn: the headline's, or else the first."""
    sites, ks = sites_and_ks(metrics)
    chosen = chosen_reading(metrics).get("k")
    k = chosen if chosen in ks else next(iter(ks), None)
    panels = {site: panel(metrics, site, k) for site in sites}
    levels = [(n, f) for n, f in constant(metrics) if f.value is not None]
    numbers = [n for lines in panels.values() for line in lines for _, n in line.points] + [f for _, f in levels]
    plot = Plot(TICKS, limits_of(numbers), y="mean IoU", levels=levels, size=(350, 270))
    drawn = [(site, line_chart(plot, lines, f"IoU by stage, {short_site(site)}")) for site, lines in panels.items()]
    return [(site, svg) for site, svg in drawn if svg], k


def chosen_reading(metrics: dict[str, Any]) -> dict[str, Any]:
    """The kind of reading, the site and the k that validation chose for the headline."""
    return next(iter(entries(metrics, "composition_iou").values()), {})


def panel(metrics: dict[str, Any], site: str, k: Any) -> list[Line]:
    """The lines of one block: both halves of guidance, PCA in place of the SAE, the other reading, and cross-attention."""
    kind = chosen_reading(metrics).get("reading", "sae")
    own, pca = {"kind": kind, "site": site, "k": k}, "pca" if kind == "sae" else f"{kind}.pca"
    words = [] if kind == "sae" else by_stage(metrics, **own | {"kind": "sae"}, half="cond")
    return [
        Line("with the prompt", by_stage(metrics, **own, half="cond"), "main"),
        Line("without it", by_stage(metrics, **own, half="uncond"), "second"),
        Line("through words", words, "muted", (2, 2), "^"),
        Line("PCA", by_stage(metrics, kind=pca, site=site), "muted", (4, 2), "s"),
        Line("cross-attention", by_stage(metrics, kind="attention"), "muted", (1, 1.6), "D"),
    ]


def constant(metrics: dict[str, Any]) -> list[tuple[str, Number]]:
    """What does not change with the stage: chance, and the better of the mean maps."""
    names = [n for n in readings(metrics, kind="mean map")]
    maps = sorted((read_number(metrics, "composition", n) for n in names), key=lambda n: n.value or 0.0)
    chance = read_number(metrics, "composition", "chance.shifted")
    return [*[("mean map", n) for n in maps[-1:]], ("chance", chance)]


def time_chart(metrics: dict[str, Any]) -> Markup:
    """IoU of the SAE across time by timestep, a line for each block and k."""
    lines, best = [], chosen_reading(metrics).get("site")
    found = readings(metrics, kind=chosen_reading(metrics).get("reading", "sae"), stage="all")
    groups = dict.fromkeys((str(f.get("site")), f.get("k")) for f in found.values())
    ks = {k for _, k in groups}
    for i, (site, k) in enumerate(groups):
        own = {n: f for n, f in found.items() if (f.get("site"), f.get("k")) == (site, k)}
        points = [(t, read_number(metrics, "composition", n)) for n, f in own.items()
                  if (t := number(f.get("t"))) is not None]  # fmt: skip
        name = short_site(site) + (f", k = {k}" if len(ks) > 1 else "")
        points.sort(key=lambda point: -point[0])
        weight = "main" if site == best else ("second", "muted")[i % 2]
        lines.append(Line(name, points, weight, () if k == min(ks, key=str) else (3, 2), "os^Dv"[i % 5]))
    return _across(metrics, lines)


def _across(metrics: dict[str, Any], lines: list[Line]) -> Markup:
    stamps = sorted({t for line in lines for t, _ in line.points}, reverse=True)
    if len(stamps) < 2:
        return Markup()
    levels = [(n, f) for n, f in constant(metrics) if f.value is not None]
    numbers = [n for line in lines for _, n in line.points] + [f for _, f in levels]
    ticks = [(t, f"{t:g}") for t in stamps]
    plot = Plot(ticks, limits_of(numbers), "mean IoU", "timestep t, from noise to image", (760, 300), levels)
    return line_chart(plot, lines, "IoU of one SAE across time, by timestep")


def evolution_charts(metrics: dict[str, Any]) -> list[tuple[str, list[tuple[str, Markup]]]]:
    """For cohesion and for similarity, a panel for each block."""
    found = entries(metrics, "evolution")
    sites = dict.fromkeys(str(f.get("site")) for f in found.values())
    every = [
        (key, title, {site: _dictionaries(metrics, found, site, key) for site in sites}) for key, title in EVOLUTION
    ]
    groups = []
    for key, title, panels in every:
        numbers = [n for lines in panels.values() for line in lines for _, n in line.points]
        plot = Plot(TICKS, limits_of(numbers, None), size=(330, 210), y=key)
        drawn = [(site, line_chart(plot, lines, f"{title}, {short_site(site)}")) for site, lines in panels.items()]
        groups.append((title, [(site, svg) for site, svg in drawn if svg]))
    return [(title, drawn) for title, drawn in groups if drawn]


def _dictionaries(metrics: dict[str, Any], found: dict[str, dict[str, Any]], site: str, key: str) -> list[Line]:
    own = {n: f for n, f in found.items() if f.get("site") == site}
    ks = list(dict.fromkeys(f.get("k") for f in own.values()))
    lines = []
    for i, k in enumerate(ks):
        for suffix, name, weight in (("", "all", "main"), ("_several", "two labels or more", "second")):
            points = [(x, read_number(metrics, "evolution", n, key + suffix))
                      for x, stage in TICKS for n, f in own.items() if (f.get("k"), f.get("stage")) == (k, stage)]  # fmt: skip
            title = name + (f", k = {k}" if len(ks) > 1 else "")
            lines.append(Line(title, points, weight, (3, 2) if i else (), "os^"[i % 3]))
    return lines
