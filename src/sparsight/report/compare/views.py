"""What a page shows of one kind of concepts: ranking, curves, judges. Not every method can do all kinds."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from sparsight.report.compare import charts, tables
from sparsight.report.compare.names import named, ours_of, ranked, short
from sparsight.report.numbers import read_number
from sparsight.report.run_files import dig, listing, mapping, number

WIDE, SMALL = (330, 280), (250, 190)


def views(metrics: dict[str, Any]) -> list[dict[str, Any]]:
    """One view for each kind of concepts, or one of all."""
    kinds = mapping(metrics.get("kinds"))
    return [view({**metrics, **own}, kind) for kind, own in kinds.items()] or [view(metrics, "")]


def view(metrics: dict[str, Any], kind: str) -> dict[str, Any]:
    """The figures of `metrics` as a page shows them; `kind` is "" where there is but one."""
    methods, ours = mapping(metrics.get("methods")), ours_of(metrics)
    shown, curves = named(methods, ours), {n: dig(one, "curve") for n, one in methods.items()}
    rows = [(n, read_number(metrics, "methods", n, "auc")) for n in ranked(methods)]
    truth = read_number(metrics, "truth", "auc")
    return {
        "kind": kind, "strokes": charts.strokes(shown, ours), "verdict": verdict(metrics, kind),
        "truth": truth, "others": len(methods) > len(shown),
        "rank_chart": charts.rank_chart(rows, f"AUC of every method {kind}".strip(), ours, truth),
        "ranking": tables.ranking(metrics), "curves": _curves(metrics, curves, shown, kind),
        "small": _small(metrics, shown, kind), "matched": tables.matched(metrics), "judges": tables.judges(metrics),
        "orders": tables.orders(metrics),
    }  # fmt: skip


def _curves(metrics: dict[str, Any], curves: dict[str, Any], shown: list[str], kind: str) -> list[Markup]:
    """A chart for each kind of damage."""
    levels = listing(dig(metrics, "recipe", "levels"))
    limits = {"distance": number(levels[-1]) if levels else None}
    title, ours = f"all concepts {kind}".strip(), ours_of(metrics)
    truth = dig(metrics, "truth", "curve")
    found = [
        charts.curve_chart(curves, shown, over, title, WIDE, ours, limits.get(over), truth)
        for over, _ in charts.DAMAGES
    ]
    return [svg for svg in found if svg]


def _small(metrics: dict[str, Any], shown: list[str], kind: str) -> list[dict[str, Any]]:
    """One small chart for each concept that these methods were asked for."""
    found, known = [], mapping(metrics.get("methods"))
    for concept, record in mapping(metrics.get("concepts")).items():
        if kind and dig(record, "kind") != kind:
            continue
        bent = {n: dig(one, "curve") for n, one in mapping(dig(record, "methods")).items() if n in known}
        truth = read_number(metrics, "concepts", concept, "truth_distance")
        found.append({
            "concept": concept, "svg": charts.curve_chart(
                bent, shown, "distance", concept, SMALL, ours_of(metrics), truth=dig(record, "truth", "curve")),
            "truth": truth.text if truth.value is not None else None,
        })  # fmt: skip
    return found


def verdict(metrics: dict[str, Any], kind: str) -> list[str]:
    """Where our method stands, in words that claim no more than the intervals show."""
    methods, ours = mapping(metrics.get("methods")), ours_of(metrics)
    order, of = ranked(methods), f" of {kind}" if kind else ""
    if not order:
        return ["No method has finished a cell."]
    said = [f"At equal perceptual distance, {short(order[0])} changes the target{of} most."]
    if ours in methods:
        versus = {n: read_number(metrics, "methods", n, f"versus_{ours}") for n in order if n != ours}
        ahead = sum(v.low is not None and v.low > 0 for v in versus.values())
        behind = sum(v.high is not None and v.high < 0 for v in versus.values())
        place = order.index(ours) + 1
        name = short(ours)[:1].upper() + short(ours)[1:]
        counts = {
            "clearly ahead of": ahead,
            "clearly behind": behind,
            "not told apart from": len(versus) - ahead - behind,
        }
        parts = [f"{words} {count}" for words, count in counts.items() if count]
        said.append(f"{name} is number {place} of {len(order)}{': ' if parts else ''}{', '.join(parts)}.")
    mean = read_number(metrics, "stability", "mean")
    if mean.value is not None:
        said.append(f"Between two judges, the order of the methods correlates at {mean.text} {mean.interval}.")
    return said
