"""Do the judges agree on the ranking, and which figure orders methods as the true EPR does?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from sparsight.metrics.arrays import Numbers
from sparsight.metrics.curves import rank_agreement, ranks
from sparsight.pipeline.compare.figures import interval, pooled

ORDERED = ("auc", "auc_damage", "auc_identity_loss", "epr", "signed_change", "share", "flip_rate", "gain", "identity",
           "distance", "damage")  # fmt: skip


def stability(figures: Mapping[str, Mapping[str, Any]], names: Sequence[str]) -> dict[str, Any]:
    """The place of each method by AUC under every judge, and Spearman's correlation of each two judges' orders.

    Intervals are over resamples of images, the same for both judges. NaN, that is null, with fewer than two methods.
    """
    scores = {
        judge: np.stack([pooled([one["auc"] for one in by[n].values()]) for n in names], axis=1)
        for judge, by in figures.items()
    }
    pairs = {f"{a} ~ {b}": rank_agreement(scores[a], scores[b]) for a, b in combinations(scores, 2)}
    found = {pair: interval(values, len(names)) for pair, values in pairs.items()}
    return {
        "ranks": {judge: dict(zip(names, ranks(s)[0].tolist(), strict=True)) for judge, s in scores.items()},
        "spearman": found, "mean": interval(pooled(list(pairs.values())), len(names)) if pairs else None,
    }  # fmt: skip


def metric_orders(figures: Mapping[str, Any], names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Spearman's correlation of each figure with the true EPR, over methods within each concept, mean over concepts.

    Within a concept and seed methods edited the same images; between concepts scales differ. Intervals are over resamples.
    """
    strata = list(dict.fromkeys(s for n in names for s in figures[n]))
    found = {}
    for key in ORDERED:
        agreements = [_within(figures, names, stratum, key) for stratum in strata]
        known = [values for values in agreements if values is not None]
        if known:
            found[key] = interval(pooled(known), len(known))
    return found


def _within(figures: Mapping[str, Any], names: Sequence[str], stratum: Any, key: str) -> Numbers | None:
    there = [n for n in names if stratum in figures[n] and key in figures[n][stratum]]
    if len(there) < 3:
        return None
    scores, truth = (np.stack([figures[n][stratum][k] for n in there], axis=1) for k in (key, "true_epr"))
    return rank_agreement(scores, truth)
