"""Percentile bootstrap over images: how far a number would move had other images been drawn.

Source: Efron and Tibshirani, *An Introduction to the Bootstrap* (1993), chapter 13 (percentile intervals). The papers
give no intervals; sparsight gives one with every figure, because CASL's main table rests on 32 images for each
attribute.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from sparsight.errors import SparsightError
from sparsight.metrics.arrays import Array, Numbers, numbers, same_rows

Statistic = Callable[..., Numbers]
_CHUNK_NUMBERS = 4_000_000  # resampled numbers held at once (32 MB), whatever the size of the input


@dataclass(frozen=True)
class Interval:
    """A figure, the ends of its bootstrap interval, and the number of images behind it.

    NaN stands for "not defined here" (for instance a flip rate when no image could flip) and becomes null in JSON.
    """

    value: float
    low: float
    high: float
    n: int

    def to_dict(self) -> dict[str, float | int | None]:
        """`{"value", "low", "high", "n"}`, fit for JSON: a number that is not finite becomes None."""
        ends = {"value": self.value, "low": self.low, "high": self.high}
        return {**{key: float(end) if math.isfinite(end) else None for key, end in ends.items()}, "n": int(self.n)}


def row_mean(values: Numbers) -> Numbers:
    """The statistic for a plain mean: (R, n) -> (R,)."""
    return values.mean(axis=1)


def bootstrap(
    statistic: Statistic, *arrays: Array, n_resamples: int = 1000, seed: int = 0, level: float = 0.95
) -> Interval:
    """Percentile bootstrap of a statistic over images; the rows of all arrays are resampled together.

    `statistic` is vectorised: it takes one array (R, n, ...) for each of `arrays` (n, ...), R being a number of
    resamples, and returns (R,). So a ratio of means is `lambda a, b: a.mean(1) / b.mean(1)`, and every resample gets
    its own numerator and denominator. Resamples in which the statistic is NaN are left out of the ends of the
    interval. With no rows all three numbers are NaN; with one row the interval has no width, which says nothing about
    certainty. Raises `SparsightError` for unequal rows, non-finite input, `n_resamples` below 1 or `level` outside
    (0, 1).
    """
    data = [numbers(array) for array in arrays]
    n = same_rows(data)
    _check(n_resamples, level)
    if n == 0:
        return Interval(math.nan, math.nan, math.nan, 0)
    value = float(statistic(*(array[None] for array in data))[0])
    parts = [statistic(*(array[rows] for array in data)) for rows in _resamples(data, n, n_resamples, seed)]
    return _interval(value, np.concatenate(parts), n, level)


def bootstrap_ratio(
    statistic: Statistic,
    first: Sequence[Array],
    second: Sequence[Array],
    *,
    n_resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """`statistic(*first) / statistic(*second)`, both on the same resamples: two methods that edited the same images.

    Pairing removes the spread that both share (hard images are hard for both), so the interval answers "is the first
    method better?" where two separate intervals may only overlap. An interval above 1 says yes. Resamples whose second
    statistic is 0 are left out. Arguments and errors are those of `bootstrap`.
    """
    split = len(first)

    def ratio(*arrays: Numbers) -> Numbers:
        bottom = statistic(*arrays[split:])
        safe = np.where(bottom == 0, 1.0, bottom)
        return np.where(bottom == 0, np.nan, statistic(*arrays[:split]) / safe)

    return bootstrap(ratio, *first, *second, n_resamples=n_resamples, seed=seed, level=level)


def _check(n_resamples: int, level: float) -> None:
    if n_resamples < 1 or not 0 < level < 1:
        raise SparsightError(
            f"the bootstrap needs at least 1 resample and a level in (0, 1), not {n_resamples} and {level}"
        )


def _resamples(data: Sequence[Numbers], n: int, n_resamples: int, seed: int) -> Iterator[np.ndarray]:
    generator = np.random.default_rng(seed)
    chunk = max(1, _CHUNK_NUMBERS // max(1, sum(array.size for array in data)))
    for start in range(0, n_resamples, chunk):
        yield generator.integers(0, n, size=(min(chunk, n_resamples - start), n))


def _interval(value: float, resampled: Numbers, n: int, level: float) -> Interval:
    defined = resampled[np.isfinite(resampled)]
    if not defined.size:
        return Interval(value, math.nan, math.nan, n)
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high), n)
