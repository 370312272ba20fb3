"""The tables of a comparison, row by row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sparsight.report.compare.names import ours_of, ranked, short
from sparsight.report.numbers import Number, mark_best, read_number
from sparsight.report.run_files import dig, listing, mapping, number

RANKING = (
    ("rank", "place", "count", "lower"), ("auc", "AUC", "", "higher"), ("versus", "", "", ""),
    ("auc_damage", "AUC over other logits", "", "higher"), ("auc_identity_loss", "AUC over identity", "", "higher"),
    ("epr", "EPR", "", "higher"),
    ("true_epr", "true EPR", "", "higher"), ("flip_rate", "flips", "%", "higher"), ("gain", "counterfactual gain", "", "higher"),
)  # fmt: skip

FIGURES = {
    "auc": "AUC", "auc_damage": "AUC over other logits", "auc_identity_loss": "AUC over identity", "epr": "EPR",
    "share": "share of the whole change", "gain": "counterfactual gain", "distance": "perceptual distance",
    "damage": "change of other logits", "signed_change": "signed change", "flip_rate": "flip rate",
}  # fmt: skip


def ranking(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Each method with every figure, the best AUC first."""
    methods = mapping(metrics.get("methods"))
    order = ranked(methods)
    own = {**{key: key for key, *_ in RANKING}, "versus": f"versus_{ours_of(metrics)}"}
    columns = {
        key: mark_best([read_number(metrics, "methods", n, own[key], unit=unit) for n in order], better)
        for key, _, unit, better in RANKING
    }
    shown = [one for one in RANKING if any(n.value is not None for n in columns[one[0]])]
    rows = [
        {"name": n, "title": str(dig(methods, n, "title") or n), "cells": [columns[key][i] for key, *_ in shown],
         "notes": _notes(mapping(methods[n]), listing(dig(metrics, "recipe", "levels")))}
        for i, n in enumerate(order)
    ]  # fmt: skip
    return {
        "columns": [(label or f"{short(ours_of(metrics))} minus it", better) for _, label, _, better in shown],
        "rows": rows,
    }


def _notes(one: dict[str, Any], levels: list[Any]) -> str:
    """What the reader has to know of a row: cells that are missing, levels that were not reached."""
    done, of = number(dig(one, "cells", "done")) or 0, number(dig(one, "cells", "of")) or 0
    parts = [f"{of - done:.0f} of {of:.0f} cells failed"] if done < of else []
    short = [f"{level:g} in {done - reached:.0f}" for level, reached in zip(levels, listing(one.get("reached")), strict=False)
             if (number(reached) or 0) < done]  # fmt: skip
    if short:
        parts.append(f"does not reach distance {', '.join(short)} of {done:.0f} cells")
    return "; ".join(parts)


def matched(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Each method at the level nearest to the middle, and at half the true change."""
    levels, level = listing(dig(metrics, "recipe", "levels")), dig(metrics, "entanglement", "level")
    place = levels.index(level) if level in levels else 0
    order = ranked(mapping(metrics.get("methods")))
    shown = [("share", "", "higher"), ("flips", "%", "higher"), ("damage", "", "lower"), ("identity_loss", "", "lower")]
    columns = [
        mark_best([_at_level(metrics, n, key, place, unit) for n in order], better) for key, unit, better in shown
    ] + [
        mark_best([read_number(metrics, "methods", n, f"half_way_{over}") for n in order], "lower")
        for over in ("distance", "damage", "identity_loss")
    ]  # fmt: skip
    reached = [dig(metrics, "methods", n, "half_way_distance") for n in order]
    return {"level": level, "rows": [
        {"name": n, "cells": [column[i] for column in columns],
         "reached": f"{dig(reached[i], 'reached')} of {dig(reached[i], 'of')}"} for i, n in enumerate(order)
    ]}  # fmt: skip


def _at_level(metrics: Mapping[str, Any], name: str, key: str, place: int, unit: str) -> Number:
    """A figure of a method's curve at one level."""
    found = listing(dig(metrics, "methods", name, "curve", key))
    return read_number({"at": found[place] if place < len(found) else None}, "at", unit=unit)


def costs(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What each method costs, for one concept and for one image."""
    keys = (("seconds", "fit", ""), ("seconds", "shared", ""), ("seconds", "each", ""), ("model_calls", "fit", "count"),
            ("model_calls", "each", "count"))  # fmt: skip
    return [
        {"name": n, "cells": [read_number(metrics, "methods", n, kind, what, unit=unit) for kind, what, unit in keys]}
        for n in ranked(mapping(metrics.get("methods")))
    ]


def judges(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The place of each method under each judge, and how far the judges agree."""
    by = mapping(dig(metrics, "stability", "ranks"))
    rows = [
        {"name": n, "places": [number(dig(by, judge, n)) for judge in by]}
        for n in ranked(mapping(metrics.get("methods")))
    ]
    pairs = [
        (name, read_number(metrics, "stability", "spearman", name))
        for name in mapping(dig(metrics, "stability", "spearman"))
    ]
    return {"names": list(by), "rows": rows, "pairs": pairs, "mean": read_number(metrics, "stability", "mean")}


def orders(metrics: Mapping[str, Any]) -> list[tuple[str, Number]]:
    """Spearman's correlation of each figure with the true EPR, best first."""
    found = [(key, read_number(metrics, "orders", key)) for key in mapping(metrics.get("orders"))]
    found = [(FIGURES.get(key, key), n) for key, n in found]
    return sorted(found, key=lambda pair: -(pair[1].value if pair[1].value is not None else -2))


def two(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """For each pair of concepts, what each method does alone and at once."""
    keys = ("first_alone", "second_alone", "first", "second", "both")
    found = []
    for pair, by in mapping(metrics.get("two")).items():
        rows = [
            {"name": n, "cells": [read_number(metrics, "two", pair, n, key, unit="%") for key in keys]
             + [read_number(metrics, "two", pair, n, "distance")]} for n in by
        ]  # fmt: skip
        found.append({"names": pair.split("+"), "rows": rows})
    return found


def entangled(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A matrix of concepts and attributes for each method; a cell's fill is its share of the largest change anywhere."""
    attributes = listing(dig(metrics, "entanglement", "attributes"))
    by = mapping(dig(metrics, "entanglement", "methods"))
    peak = max((abs(v) for one in by.values() for row in one.values() for v in row), default=0.0) or 1.0
    related = mapping(dig(metrics, "entanglement", "related"))
    order = [n for n in sorted(ranked(mapping(metrics.get("methods"))), key=lambda n: n != ours_of(metrics)) if n in by]
    return [
        {"name": n, "rows": [{"concept": c, "cells": [
            {"attribute": a, "value": v, "fill": min(1.0, abs(v) / peak), "own": a == c, "spared": a in listing(related.get(c))}
            for a, v in zip(attributes, row, strict=True)]} for c, row in by[n].items()]}
        for n in order
    ]  # fmt: skip


def unfit(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Methods that do not apply to some of the concepts: a row for each reason."""
    found = []
    for name, by in mapping(metrics.get("unfit")).items():
        for why in dict.fromkeys(mapping(by).values()):
            found.append({"name": name, "why": why, "concepts": [c for c, own in mapping(by).items() if own == why]})
    return found
