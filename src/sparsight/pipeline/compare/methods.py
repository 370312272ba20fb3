"""What metrics.json says of each method, over all concepts and on each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sparsight.files import read_json
from sparsight.metrics.arrays import Numbers
from sparsight.metrics.curves import ranks
from sparsight.pipeline.compare.figures import interval, pooled
from sparsight.pipeline.compare.table import Scored

if TYPE_CHECKING:
    from sparsight.pipeline.compare.run import CompareRun

Stratum = tuple[int, str]
Figures = dict[str, dict[str, dict[Stratum, dict[str, Numbers]]]]  # judge -> method -> stratum -> figure -> resamples


def of_method(
    run: CompareRun, name: str, scored: list[Scored], figures: Figures, curves: dict[Stratum, dict[str, Numbers]],
    concepts: Sequence[str],
) -> dict[str, Any]:  # fmt: skip
    """One method over these concepts and all seeds."""
    own, entry = figures[run.recipe.judge][name], run.entries[name]
    count = sum(s.facts["count"] for s in scored)
    keys = dict.fromkeys(key for one in own.values() for key in one)
    found = {key: interval(pooled([one[key] for one in own.values()]), count) for key in keys}
    for key in (k for k in keys if k.startswith("half_way")):
        found[key]["reached"] = sum(bool(np.isfinite(one[key][0])) for one in own.values())
        found[key]["of"] = len(own)
    strata = len(run.recipe.seeds) * sum(concept not in run.unfit.get(name, {}) for concept in concepts)
    return {
        "title": entry.title, "paper": entry.paper, "options": run.recipe.entry_options(name), **found,
        "rank": _rank(run, name, figures[run.recipe.judge], count),
        f"versus_{run.recipe.ours}": _versus(run.recipe.ours, name, figures[run.recipe.judge], count),
        "by_seed": _by_seed(run, own), "curve": pooled_curve(list(curves.values()), count),
        "classifiers": {judge: {key: interval(pooled([one[key] for one in by[name].values()]), count)
                                for key in ("auc", "epr", "true_epr")} for judge, by in figures.items()},
        "reached": _reached(run, scored), "met": sum(bool(s.facts["met"]) for s in scored),
        "cells": {"done": len(scored), "of": strata}, **_costs(run, name, scored),
    }  # fmt: skip


def pooled_curve(curves: list[dict[str, Numbers]], count: int) -> dict[str, list[Any]]:
    """The mean curve over strata, an interval for each figure and level."""
    return {
        name: [interval(pooled([one[name][:, level] for one in curves]), count) for level in range(curves[0][name].shape[1])]
        for name in curves[0]
    }  # fmt: skip


def _rank(run: CompareRun, name: str, by: dict[str, dict[Stratum, dict[str, Numbers]]], count: int) -> dict[str, Any]:
    """The place by AUC among the methods that are done, on the sample and on every resample."""
    scores = np.stack([pooled([one["auc"] for one in strata.values()]) for strata in by.values()], axis=1)
    return interval(ranks(scores)[:, list(by).index(name)], count)


def _versus(
    ours: str, name: str, by: dict[str, dict[Stratum, dict[str, Numbers]]], count: int
) -> dict[str, Any] | None:
    """AUC of our own method minus this one's, over the strata that both have, on the same resamples."""
    if name == ours or ours not in by:
        return None
    common = [s for s in by[name] if s in by[ours]]
    return interval(pooled([by[ours][s]["auc"] - by[name][s]["auc"] for s in common]), count) if common else None


def _by_seed(run: CompareRun, own: dict[Stratum, dict[str, Numbers]]) -> dict[str, float]:
    seeds = {s: [one["auc"][:1] for (seed, _), one in own.items() if seed == s] for s in run.recipe.seeds}
    return {str(s): float(pooled(parts)[0]) for s, parts in seeds.items() if parts}


def _reached(run: CompareRun, scored: list[Scored]) -> list[int]:
    """In how many cells each level was reached."""
    return [
        sum(any(m["reached"] and m["level"] == level for m in s.facts["matches"]) for s in scored)
        for level in run.recipe.levels
    ]


def _costs(run: CompareRun, name: str, scored: list[Scored]) -> dict[str, Any]:
    """What one concept costs: seconds and rows through the denoiser. What others share in stands apart."""
    needed = run.entries[name].needs
    shared = [sum(v for need, v in run.subject.costs(s).items() if need in needed) for s in run.recipe.seeds]

    def mean(kind: str, what: str) -> float:
        return float(np.mean([s.facts[kind][what] for s in scored]))

    return {
        "model_calls": {what: mean("calls", what) for what in ("fit", "search", "each")},
        "seconds": {**{what: mean("seconds", what) for what in ("fit", "search", "each")}, "shared": float(np.mean(shared))},
    }  # fmt: skip


def of_concept(run: CompareRun, concept: str, figures: Any, curves: Any) -> dict[str, Any]:
    """Each method on one concept, its seeds pooled."""
    found = {}
    for name in figures:
        own = [one for (_, c), one in figures[name].items() if c == concept]
        if own:
            count = run.recipe.test * len(own)
            keys = ("auc", "epr", "true_epr", "flip_rate", "distance", "share")
            bent = [one for (_, c), one in curves[name].items() if c == concept]
            found[name] = {
                **{key: interval(pooled([o[key] for o in own]), count) for key in keys}, "curve": pooled_curve(bent, count),
            }  # fmt: skip
    kind = next(kind for kind, names in run.subject.kinds.items() if concept in names)
    return {"methods": found, "kind": kind, "truth_distance": _truth_distance(run, concept)}


def _truth_distance(run: CompareRun, concept: str) -> float | None:
    """How far the true counterfactuals are from the unedited images, so that the levels can be read against it."""
    facts = [run.folder / "images" / f"seed{s}" / concept / "test" / "images.json" for s in run.recipe.seeds]
    known = [read_json(path).get("truth_distance") for path in facts]
    return None if None in known else float(np.mean(known))
