"""How far two measurements, two images or two sets of decisions agree."""

from __future__ import annotations

import math

import numpy as np
from torch import Tensor

from sparsight.errors import SparsightError
from sparsight.metrics.arrays import Array, Numbers, images, numbers, same_rows
from sparsight.metrics.bootstrap import Interval, Statistic, bootstrap, row_mean


def pearson(a: Array, b: Array, *, seed: int = 0, n_resamples: int = 1000) -> Interval:
    """Pearson correlation of two lists of m numbers, with a bootstrap interval over the pairs.

    NaN where it is not defined: fewer than 2 pairs, or a list without spread. Raises `SparsightError` for unequal
    lengths.
    """
    return _correlation(_pearson, a, b, seed, n_resamples)


def spearman(a: Array, b: Array, *, seed: int = 0, n_resamples: int = 1000) -> Interval:
    """Spearman rank correlation (ties share their mean rank) of two lists of m numbers, with a bootstrap interval.

    This is how well EPR orders edits as the truth does. The pairs are resampled as if independent; pairs that share
    images or a model are not, so read the interval as too narrow rather than too wide. NaN and errors as in
    `pearson`.
    """
    return _correlation(_spearman, a, b, seed, n_resamples)


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of images (n, 3, H, W) in [-1, 1] -> (n,), in dB: 10 log10(2^2 / MSE).

    Equal images would be infinite; the MSE is held at 1e-10 or more, so they give 106.02 dB.
    """
    images(a, b)
    return 10 * (4 / (a - b).flatten(1).square().mean(dim=1).clamp(min=1e-10)).log10()


def attribute_agreement(logits_a: Array, logits_b: Array, *, seed: int = 0) -> Interval:
    """Share of 0/1 decisions (logit > 0) that are equal in two sets of logits (n, A), with an interval over images.

    Between originals and their reconstructions this is what inversion keeps of the attributes; between two
    classifiers it is their agreement. Raises `SparsightError` for unequal shapes.
    """
    first, second = numbers(logits_a, "logits"), numbers(logits_b, "logits")
    if first.shape != second.shape or first.ndim != 2:
        raise SparsightError(f"logits must be two equal arrays (n, A), not {first.shape} and {second.shape}")
    return bootstrap(row_mean, ((first > 0) == (second > 0)).mean(axis=1), seed=seed)


def _correlation(statistic: Statistic, a: Array, b: Array, seed: int, n_resamples: int) -> Interval:
    first, second = numbers(a, "first list"), numbers(b, "second list")
    if same_rows([first, second]) < 2:
        return Interval(math.nan, math.nan, math.nan, len(first))
    return bootstrap(statistic, first, second, seed=seed, n_resamples=n_resamples)


def _pearson(a: Numbers, b: Numbers) -> Numbers:
    return (_standard(a) * _standard(b)).sum(axis=1)


def _standard(x: Numbers) -> Numbers:
    """Each row centred and at length 1; NaN where its spread is no more than the rounding of its numbers."""
    centred = x - x.mean(axis=1, keepdims=True)
    length = np.linalg.norm(centred, axis=1, keepdims=True)
    flat = length <= 1e-12 * np.linalg.norm(x, axis=1, keepdims=True)
    return np.where(flat, np.nan, centred / np.where(flat, 1.0, length))


def _spearman(a: Numbers, b: Numbers) -> Numbers:
    from scipy.stats import rankdata

    return _pearson(rankdata(a, axis=1), rankdata(b, axis=1))
