"""How much a concept's top latents know: a linear SVM on pooled latents, against the same with shuffled labels.

Source: CASL's SVM probe on aligned latents (top-1 to top-16). The paper's kernel, split and pooling are not known;
ours are a linear kernel, balanced classes, and cross-validation in which every image is held out once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from sparsight.errors import SparsightError, unknown
from sparsight.metrics.arrays import Array, Numbers, numbers
from sparsight.metrics.bootstrap import Interval, bootstrap, row_mean

POOLS = ("mean", "max")


def pool(codes: Tensor, how: str = "mean") -> Tensor:
    """Codes (n, ..., K) -> (n, K): the mean or the maximum over all axes between, such as t and position."""
    if how not in POOLS:
        raise unknown("pooling", how, POOLS)
    if codes.ndim < 2 or 0 in codes.shape:
        raise SparsightError(f"codes must be (n, ..., latents) and not empty, but the shape is {tuple(codes.shape)}")
    flat = codes.reshape(len(codes), -1, codes.shape[-1])
    return flat.mean(dim=1) if how == "mean" else flat.amax(dim=1)


def pool_by_image(codes: Tensor, image: Tensor, how: str = "mean") -> tuple[Tensor, Tensor]:
    """Codes (M, ..., K) of maps that belong to images `image` (M,) -> (ids (n,) ascending, pooled (n, K)).

    The maps of one image (its timesteps) need not be neighbours, nor equally many. Codes that do not fit into memory
    can be pooled over positions with `pool` batch by batch, and then by image here: all maps have equally many
    positions.
    """
    maps = pool(codes, how)
    if image.shape != (len(maps),):
        raise SparsightError(f"{len(maps)} maps need as many image ids, not {tuple(image.shape)}")
    ids, index = image.unique(return_inverse=True)
    empty = maps.new_zeros(len(ids), maps.shape[1])
    reduce = "mean" if how == "mean" else "amax"
    return ids, empty.scatter_reduce(0, index[:, None].expand_as(maps), maps, reduce, include_self=False)


def probe_accuracy(
    features: Array,
    labels: Array,
    order: Sequence[int],
    *,
    tops: Sequence[int] = (1, 2, 4, 8, 16),
    seed: int = 0,
    folds: int = 5,
) -> dict[str, Interval]:
    """Held-out accuracy of a linear SVM on the first `top` latents of `order`, for each of `tops`.

    `features` (n, K): pooled latents, one row an image. `labels` (n,): 0/1. `order`: latents, best first. The larger
    class is subsampled to the size of the smaller, so that 0.5 is chance; then `folds` stratified folds hold each
    image out once, and the scaling is fitted on the training folds alone. The interval resamples the held-out images;
    it does not cover the spread from retraining. The ranking in `order` must come from other images than these, or
    the accuracy is flattered.

    Returns `{"top1": ..., "top16": ..., "shuffled": ...}`; "shuffled" is the largest top with the labels permuted,
    and should lie near 0.5. Raises `SparsightError` for labels other than 0/1, fewer than `folds` images in a class,
    a latent out of range, or fewer latents in `order` than the largest top.
    """
    x, y = _inputs(features, labels, order, tops, folds)
    generator = np.random.default_rng(seed)
    rows = _balanced(y, generator)
    x, y = x[np.ix_(rows, np.asarray(order[: max(tops)], dtype=np.int64))], y[rows]
    result = {f"top{top}": _held_out(x[:, :top], y, seed, folds) for top in tops}
    return {**result, "shuffled": _held_out(x, generator.permutation(y), seed, folds)}


def _inputs(
    features: Array, labels: Array, order: Sequence[int], tops: Sequence[int], folds: int
) -> tuple[Numbers, Numbers]:
    x, y = numbers(features, "features"), numbers(labels, "labels")
    if x.ndim != 2 or y.shape != x.shape[:1]:
        raise SparsightError(f"the probe needs features (n, latents) and labels (n,), not {x.shape} and {y.shape}")
    if not np.isin(y, (0, 1)).all():
        raise SparsightError("the probe's labels must be 0 or 1")
    smallest = int(min((y == 0).sum(), (y == 1).sum()))
    if folds < 2 or smallest < folds:
        raise SparsightError(f"the probe's {folds} folds need as many images of each class, but one has {smallest}")
    _check_latents(order, tops, x.shape[1])
    return x, y


def _check_latents(order: Sequence[int], tops: Sequence[int], latents: int) -> None:
    if not tops or min(tops) < 1 or len(order) < max(tops):
        raise SparsightError(f"the probe cannot take the top {list(tops)} of {len(order)} ranked latents")
    if any(not 0 <= int(latent) < latents for latent in order[: max(tops)]):
        raise SparsightError(f"the ranking names a latent outside 0 to {latents - 1}")


def _balanced(y: Numbers, generator: np.random.Generator) -> np.ndarray:
    classes = [np.flatnonzero(y == value) for value in (0, 1)]
    size = min(map(len, classes))
    return np.sort(np.concatenate([generator.choice(rows, size, replace=False) for rows in classes]))


def _held_out(x: Numbers, y: Numbers, seed: int, folds: int) -> Interval:
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    split = StratifiedKFold(folds, shuffle=True, random_state=seed)
    predicted = cross_val_predict(_classifier(), x, y, cv=split)
    return bootstrap(row_mean, (predicted == y).astype(np.float64), seed=seed)


def _classifier() -> Any:
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import LinearSVC

    # The primal problem: always more images than latents here, and it converges without a random order.
    return make_pipeline(StandardScaler(), LinearSVC(dual=False))
