"""The tables: EPR of concepts by methods, all figures of one concept, and the k by alpha grid."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from markupsafe import Markup

from sparsight.report.casl.charts import dot_chart, log_limits
from sparsight.report.casl.figures import METHOD_FIGURES, Figure
from sparsight.report.numbers import Number, digits, label, mark_best, method_names, read_number
from sparsight.report.run_files import dig, listing, mapping, number


def judges(metrics: dict[str, Any]) -> list[str]:
    """The classifiers that judged the edits, the main one (whose EPR is `epr`) first."""
    names: dict[str, None] = {}
    for concept in mapping(metrics.get("concepts")).values():
        for method in mapping(dig(concept, "methods")).values():
            names.update(dict.fromkeys(mapping(dig(method, "classifiers"))))
    main = dig(metrics, "names", "classifier")
    return sorted(names, key=lambda name: name != main)


def epr_table(metrics: dict[str, Any]) -> dict[str, Any]:
    """Rows of concepts, each with a list of cells; a cell holds one number for each judge."""
    names, by = method_names(metrics), judges(metrics)
    columns_of: list[str | None] = [*by] or [None]
    rows = []
    for concept in mapping(metrics.get("concepts")):
        columns = [mark_best([_epr(metrics, concept, m, judge) for m in names]) for judge in columns_of]
        cells = [list(zip(by or [""], per_judge, strict=True)) for per_judge in zip(*columns, strict=True)]
        rows.append({"concept": concept, "cells": cells, "same": _undecided(metrics, concept, names)})
    return {"methods": names, "judges": by, "rows": rows}


def _epr(metrics: dict[str, Any], concept: str, method: str, judge: str | None) -> Number:
    base = ("concepts", concept, "methods", method)
    main = read_number(metrics, *base, "epr", tip=_versus(metrics, concept, method))
    if judge is None:
        return main
    judged = read_number(metrics, *base, "classifiers", judge, "epr")
    is_main = judge == dig(metrics, "names", "classifier")
    return replace(judged, tip=main.tip) if is_main and judged.value is not None else main if is_main else judged


def _versus(metrics: dict[str, Any], concept: str, method: str) -> str:
    """CASL's EPR over this method's, in words."""
    ratio = read_number(metrics, "concepts", concept, "methods", method, "versus_casl")
    if ratio.value is None:
        return ""
    return f"CASL / {label(method)}: {ratio.text} {ratio.interval} on the same draws."


def _undecided(metrics: dict[str, Any], concept: str, names: list[str]) -> set[str]:
    """Controls whose precision the bootstrap cannot tell from CASL's."""
    ratios = {m: read_number(metrics, "concepts", concept, "methods", m, "versus_casl") for m in names}
    return {m for m, r in ratios.items() if r.low is not None and r.high is not None and r.low <= 1 <= r.high}


def epr_charts(metrics: dict[str, Any]) -> list[tuple[str, Markup]]:
    """A dot chart for each concept, all on one scale."""
    names = method_names(metrics)
    eprs = {c: [(m, _epr(metrics, c, m, None)) for m in names] for c in mapping(metrics.get("concepts"))}
    limits = log_limits([n for rows in eprs.values() for _, n in rows])
    drawn = [(c, dot_chart(rows, limits, f"EPR of each method, {label(c)}")) for c, rows in eprs.items()]
    return [(c, svg) for c, svg in drawn if svg]


@dataclass(frozen=True)
class Column:
    """One figure of all methods of a concept, with the other attribute's name where the figure is a damage."""

    figure: Figure
    numbers: list[Number]
    notes: list[str]


def concept_table(metrics: dict[str, Any], concept: str) -> dict[str, Any]:
    """All figures of a concept: methods by figures, columns that no method has left out."""
    names = list(mapping(dig(metrics, "concepts", concept, "methods")))
    names.sort(key=lambda name: name != "casl")
    columns = [_column(metrics, concept, names, figure) for figure in METHOD_FIGURES]
    known = [c for c in columns if any(n.value is not None or "not measured" not in n.reason for n in c.numbers)]
    return {"methods": names, "columns": known}


def _column(metrics: dict[str, Any], concept: str, names: list[str], figure: Figure) -> Column:
    base, notes, inner = ("concepts", concept, "methods"), [""] * len(names), (figure.key,)
    if figure.key == "worst_damage":
        inner = ("worst_damage", "change")  # type: ignore[assignment]
        notes = [label(str(dig(metrics, *base, m, "worst_damage", "name") or "")) for m in names]
    numbers = [read_number(metrics, *base, m, *inner, unit=figure.unit) for m in names]
    return Column(figure, mark_best(numbers, figure.better), notes)


def sweep_table(metrics: dict[str, Any], concept: str) -> dict[str, Any] | None:
    """The k by alpha grid with a fill (0 to 1) for each EPR; None where there was no sweep."""
    base = ("concepts", concept, "sweep")
    sweep = mapping(dig(metrics, *base))
    ks, alphas, epr = (listing(sweep.get(key)) for key in ("k", "alpha", "epr"))
    known = [v for row in epr for v in map(number, listing(row)) if v is not None]
    if not (ks and alphas and known):
        return None
    low, span = min(known), (max(known) - min(known)) or 1.0
    rows = [[_sweep_cell(sweep, r, c, low, span) for c in range(len(alphas))] for r in range(len(ks))]
    chosen = (dig(metrics, "concepts", concept, "k"), number(dig(metrics, "concepts", concept, "alpha")))
    return {"k": ks, "alpha": alphas, "rows": rows, "n": sweep.get("n"), "chosen": chosen, "base": base}


def _sweep_cell(sweep: dict[str, Any], row: int, column: int, low: float, span: float) -> dict[str, Any]:
    value, flip = _at(sweep.get("epr"), row, column), _at(sweep.get("flip_rate"), row, column)
    return {
        "value": value,
        "text": digits(value),
        "flip": flip,
        "flip_text": digits(flip, "%"),
        "fill": 0.0 if value is None else (value - low) / span,
        "at": (str(row), str(column)),
    }


def _at(grid: Any, row: int, column: int) -> float | None:
    """Entry of a list of lists, None outside it."""
    rows = listing(grid)
    entries = listing(rows[row]) if row < len(rows) else []
    return number(entries[column]) if column < len(entries) else None
