"""The figures of one cell on every bootstrap resample of its images, and how they are pooled.

A stratum is a (seed, concept). Methods edited the same images in it and get the same resamples, so that differences are paired;
a figure over several strata is the plain mean of theirs.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from sparsight.metrics import Interval
from sparsight.metrics.arrays import Numbers
from sparsight.metrics.curves import damage_at, mean_height, weights
from sparsight.metrics.epr import EPSILON, HALF_FLIP
from sparsight.pipeline.compare.table import Scored

RESAMPLES = 1000
HALF_WAY = 0.5  # of the true change: the height at which damages are compared
CURVES = ("distance", "damage", "identity_loss", "share", "flips")


def drawn(seed: int, concept: str, count: int) -> Numbers:
    """The resamples of a stratum, (1 + RESAMPLES, count), the sample itself first; the same for every method."""
    return weights(count, RESAMPLES, zlib.crc32(f"{seed} {concept}".encode()))


def curve(scored: Scored, judge: str, levels: int) -> dict[str, Numbers]:
    """Mean figures at each level, (1 + RESAMPLES, levels). A curve that ends early is held at its last point."""
    columns = scored.columns[judge]
    share = drawn(scored.cell.seed, scored.cell.concept, len(columns["share"]))
    found = {name: share @ columns[name] for name in ("distance", "damage", "share")}
    found["identity_loss"] = share @ (1 - columns["identity"])
    found["flips"] = _divided(share @ (columns["open"] * columns["on"]), share @ columns["open"])
    return {name: _held(values, levels) for name, values in found.items()}


def areas(curves: Mapping[str, Numbers], limits: Mapping[str, float]) -> dict[str, Numbers]:
    """The curves' mean heights over each damage, and the damage half way to the true change: (1 + RESAMPLES,) each."""
    found = {
        f"auc_{over}": mean_height(curves[over], curves["share"], limit)
        for over, limit in limits.items() if limit > 0
    }  # fmt: skip
    for over in limits:
        found[f"half_way_{over}"] = damage_at(curves[over], curves["share"], HALF_WAY)
    return {"auc": found.pop("auc_distance"), **found}


def at_choice(scored: Scored, judge: str) -> dict[str, Numbers]:
    """The figures at the strength that validation images chose: (1 + RESAMPLES,) each."""
    own = {name: values[:, scored.chosen] for name, values in scored.columns[judge].items()}
    count = len(own["share"])
    share = drawn(scored.cell.seed, scored.cell.concept, count)
    cells = count * own["others"][0]
    found = {
        "epr": share @ np.abs(own["change"]) / (share @ own["damage"] + EPSILON),
        "true_epr": share @ own["target_flip"] * cells / (share @ own["damage_flips"] * count + HALF_FLIP),
        "flip_rate": _divided(share @ (own["open"] * own["on"]), share @ own["open"]),
        "signed_change": share @ own["change"], "share": share @ own["share"], "damage": share @ own["damage"],
        "distance": share @ own["distance"], "identity": share @ own["identity"], "valid": share @ own["valid"],
    }  # fmt: skip
    if "gain" in own:
        known = np.isfinite(own["gain"])
        found["gain"] = _divided(share[:, known] @ own["gain"][known], share[:, known].sum(1))
    return found


def pooled(strata: Sequence[Numbers]) -> Numbers:
    """The mean over strata of figures (1 + RESAMPLES,), leaving out those where it is not defined."""
    stacked = np.stack(strata)
    known = np.isfinite(stacked)
    return _divided(np.where(known, stacked, 0.0).sum(0), known.sum(0).astype(np.float64))


def interval(values: Numbers, count: int, level: float = 0.95) -> dict[str, Any]:
    """An interval of metrics.json from the sample's figure and the resamples' (1 + RESAMPLES,)."""
    resampled = values[1:][np.isfinite(values[1:])]
    if not math.isfinite(values[0]) or not resampled.size:
        return Interval(float(values[0]), math.nan, math.nan, count).to_dict()
    low, high = np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(values[0]), float(low), float(high), count).to_dict()


def limits_of(curves: Iterable[Mapping[str, Numbers]], level: float) -> dict[str, float]:
    """How far each damage goes: the largest level for the distance, for others the median of what methods do there."""
    ends = list(curves)
    found = {over: float(np.median([one[over][0, -1] for one in ends])) for over in ("damage", "identity_loss")}
    return {"distance": level, **found}


def _held(values: Numbers, levels: int) -> Numbers:
    last = np.repeat(values[:, -1:], max(0, levels - values.shape[1]), axis=1)
    return np.concatenate([values, last], axis=1)


def _divided(top: Numbers, bottom: Numbers) -> Numbers:
    return np.where(bottom > 0, top / np.where(bottom > 0, bottom, 1.0), np.nan)
