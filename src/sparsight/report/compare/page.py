"""What the page of a comparison shows."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from markupsafe import Markup

from sparsight.report.compare import charts, gallery, tables
from sparsight.report.compare.names import OURS, named, ranked, short
from sparsight.report.numbers import Number, read_number
from sparsight.report.run_files import RunFiles, dig, listing, mapping, number
from sparsight.report.sheets import Sprites

WIDE, SMALL = (330, 280), (250, 190)


def comparison_context(run: RunFiles, sprites: Sprites) -> dict[str, Any]:
    """Everything that the template asks for and that is not on every page."""
    metrics, methods = run.metrics, mapping(run.metrics.get("methods"))
    shown, curves = named(methods), {n: dig(one, "curve") for n, one in methods.items()}
    return {
        "own_css": Markup(files("sparsight.report.compare").joinpath("style.css").read_text("utf-8")),
        "count": len(methods), "ours": OURS,
        "strokes": charts.strokes(shown),
        "short": short, "verdict": verdict(metrics), "keys": keys(metrics),
        "facts": facts(metrics), "names": mapping(metrics.get("names")), "levels": listing(dig(metrics, "recipe", "levels")),
        "rank_chart": charts.rank_chart(
            [(n, read_number(metrics, "methods", n, "auc")) for n in ranked(methods)], "AUC of every method"
        ),
        "ranking": tables.ranking(metrics),
        "curves": _curves(metrics, curves, shown),
        "small": _small(metrics, shown), "galleries": gallery.galleries(run, sprites),
        "matched": tables.matched(metrics),
        "judges": tables.judges(metrics), "orders": tables.orders(metrics), "costs": tables.costs(metrics),
        "few_chart": charts.few_chart(mapping(metrics.get("few"))), "two": tables.two(metrics),
        "entangled": tables.entangled(metrics), "attributes": listing(dig(metrics, "entanglement", "attributes")),
        "entangled_level": dig(metrics, "entanglement", "level"),
        "not_applicable": mapping(metrics.get("not_applicable")), "failed": mapping(metrics.get("failed")),
    }  # fmt: skip


def _curves(metrics: dict[str, Any], curves: dict[str, Any], shown: list[str]) -> list[Markup]:
    """A chart for each kind of damage."""
    levels = listing(dig(metrics, "recipe", "levels"))
    limits = {"distance": number(levels[-1]) if levels else None}
    found = [
        charts.curve_chart(curves, shown, over, "all concepts", WIDE, limits.get(over)) for over, _ in charts.DAMAGES
    ]
    return [svg for svg in found if svg]


def _small(metrics: dict[str, Any], shown: list[str]) -> list[dict[str, Any]]:
    """One small chart a concept."""
    found = []
    for concept, record in mapping(metrics.get("concepts")).items():
        bent = {n: dig(one, "curve") for n, one in mapping(dig(record, "methods")).items()}
        truth = read_number(metrics, "concepts", concept, "truth_distance")
        found.append({
            "concept": concept, "svg": charts.curve_chart(bent, shown, "distance", concept, SMALL),
            "truth": truth.text if truth.value is not None else None,
        })  # fmt: skip
    return found


def keys(metrics: dict[str, Any]) -> list[tuple[str, Number, str]]:
    """The large figures of the head: how good the inversion is comes before what was done with it."""
    agreement = mapping(dig(metrics, "inversion", "agreement"))
    judge = str(dig(metrics, "names", "judge"))
    found = [
        ("inversion, PSNR", read_number(metrics, "inversion", "psnr"), "dB, the rebuilt images against the images")
    ]
    if judge in agreement:
        share = read_number(metrics, "inversion", "agreement", judge, unit="%")
        found.append(("inversion, attributes kept", share, f"decisions that stay the same, judge {judge}"))
    found.append(
        ("AUC of CASL", read_number(metrics, "methods", OURS, "auc"), "share of the true change, mean over distances")
    )
    return found


def facts(metrics: dict[str, Any]) -> list[tuple[str, str]]:
    """How large the comparison is."""
    recipe, methods = mapping(metrics.get("recipe")), mapping(metrics.get("methods"))
    done = sum(int(dig(one, "cells", "done") or 0) for one in methods.values())
    return [
        ("methods", f"{len(methods)}, and {len(mapping(metrics.get('not_applicable')))} not applicable"),
        ("concepts", str(len(mapping(metrics.get("concepts"))))),
        ("test images", f"{recipe.get('test')} a concept and seed"),
        ("seeds", ", ".join(map(str, listing(metrics.get("seeds"))))),
        ("judges", ", ".join(mapping(dig(metrics, "stability", "ranks")))),
        ("cells", f"{done} done, {len(mapping(metrics.get('failed')))} failed"),
    ]  # fmt: skip


def verdict(metrics: dict[str, Any]) -> list[str]:
    """Where CASL stands, in words that claim no more than the intervals show."""
    methods = mapping(metrics.get("methods"))
    order = ranked(methods)
    if not order:
        return ["No method has finished a cell."]
    said = [f"At equal perceptual distance, {short(order[0])} changes the target most."]
    if OURS in methods:
        versus = {n: read_number(metrics, "methods", n, "versus_casl") for n in order if n != OURS}
        ahead = sum(v.low is not None and v.low > 0 for v in versus.values())
        behind = sum(v.high is not None and v.high < 0 for v in versus.values())
        place = order.index(OURS) + 1
        said.append(f"CASL is number {place} of {len(order)}: clearly ahead of {ahead}, clearly behind {behind}, and not told "
                    f"apart from {len(versus) - ahead - behind}.")  # fmt: skip
    mean = read_number(metrics, "stability", "mean")
    if mean.value is not None:
        said.append(f"Between two judges, the order of the methods correlates at {mean.text} {mean.interval}.")
    return said
