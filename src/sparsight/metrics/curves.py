"""Curves of what an edit changes against what it damages, and how methods stand to each other on them.

A curve is an edit at several strengths: `x` is a mean damage, `y` a mean change of the target. Every curve starts at (0, 0),
since an edit at strength 0 changes nothing. All functions take any leading axes, such as bootstrap resamples.
"""

from __future__ import annotations

import numpy as np

from sparsight.errors import SparsightError
from sparsight.metrics.arrays import Numbers


def mean_height(x: Numbers, y: Numbers, limit: float) -> Numbers:
    """The area under curves x, y (..., points), weak to strong, from damage 0 to `limit`, divided by `limit`: (...).

    Linear between points. A curve that ends before `limit` goes on at its last height: who may damage more may still
    edit as before. Where damage falls from one strength to the next, it counts as what it was. Raises `SparsightError`
    for unequal shapes, no point, or a limit that is not above 0.
    """
    xs, ys = _from_zero(x, y)
    if not limit > 0:
        raise SparsightError(f"the limit of a curve must be above 0, not {limit}")
    left, right = np.minimum(xs[..., :-1], limit), np.minimum(xs[..., 1:], limit)
    width = np.where(xs[..., 1:] > xs[..., :-1], xs[..., 1:] - xs[..., :-1], 1.0)
    slope = (ys[..., 1:] - ys[..., :-1]) / width
    middle = ys[..., :-1] + slope * ((left + right) / 2 - xs[..., :-1])
    rest = np.maximum(limit - xs[..., -1], 0.0) * ys[..., -1]
    return (((right - left) * middle).sum(-1) + rest) / limit


def damage_at(x: Numbers, y: Numbers, height: float) -> Numbers:
    """The damage at which curves x, y (..., points) first come to `height`: (...), NaN where they never do.

    Raises `SparsightError` as `mean_height` does, and for a height that is not above 0.
    """
    xs, ys = _from_zero(x, y)
    if not height > 0:
        raise SparsightError(f"the height must be above 0, not {height}")
    over = ys >= height
    after = np.maximum(over.argmax(-1), 1)[..., None]
    (x0, x1), (y0, y1) = ([np.take_along_axis(a, i, -1)[..., 0] for i in (after - 1, after)] for a in (xs, ys))
    share = (height - y0) / np.where(y1 > y0, y1 - y0, 1.0)
    return np.where(over.any(-1), x0 + share * (x1 - x0), np.nan)


def ranks(scores: Numbers) -> Numbers:
    """Places of scores (..., methods), 1 for the highest; ties share their mean place, and NaN stays NaN."""
    from scipy.stats import rankdata

    return rankdata(-np.asarray(scores, dtype=np.float64), axis=-1, nan_policy="omit")


def rank_agreement(a: Numbers, b: Numbers) -> Numbers:
    """Spearman's correlation of scores a, b (..., methods), over the methods that have both: (...).

    NaN with fewer than two methods, or where all of one list are equal.
    """
    both = np.isfinite(a) & np.isfinite(b)
    first, second = (ranks(np.where(both, scores, np.nan)) for scores in (a, b))
    first, second = (r - np.nanmean(np.where(both, r, np.nan), -1, keepdims=True) for r in (first, second))
    top = np.nansum(first * second, -1)
    size = np.sqrt(np.nansum(first**2, -1) * np.nansum(second**2, -1))
    return np.where(size > 0, top / np.where(size > 0, size, 1.0), np.nan)


def weights(count: int, n_resamples: int, seed: int) -> Numbers:
    """How often each of `count` images is in each resample, as shares of the whole: (1 + n_resamples, count).

    The first row is the sample itself. The same arguments give the same resamples, so methods that edited the same images
    are compared in pairs. A mean over images is then `weights @ values`.
    """
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=n_resamples)
    return np.concatenate([np.ones((1, count)), drawn]) / count


def _from_zero(x: Numbers, y: Numbers) -> tuple[Numbers, Numbers]:
    xs, ys = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if xs.shape != ys.shape or not xs.ndim or not xs.shape[-1]:
        raise SparsightError(f"a curve needs as many heights as damages, not {xs.shape} and {ys.shape}")
    zero = np.zeros((*xs.shape[:-1], 1))
    return np.maximum.accumulate(np.concatenate([zero, xs], -1), -1), np.concatenate([zero, ys], -1)
