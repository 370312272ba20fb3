"""Comparing an edit with the image that should have come out: only possible where the truth is known.

In a world the renderer draws the same picture with one factor changed, the counterfactual, and the pixels in which
the two differ are the only ones an ideal edit touches. No paper has this; it is what EPR can be checked against.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sparsight.errors import SparsightError
from sparsight.metrics.arrays import images
from sparsight.metrics.bootstrap import Interval, bootstrap, row_mean

Distance = Callable[[Tensor, Tensor], Tensor]
SMALLEST = 1e-6  # a denominator at or below this is "no difference": far less than one 8-bit step in one pixel of 64x64


@dataclass(frozen=True)
class PerImage:
    """A number for each image on which it is defined; the others are left out and counted, never NaN."""

    values: Tensor  # (m,), m = number of True in `kept`, in the order of the images
    kept: Tensor  # (n,) bool

    @property
    def excluded(self) -> int:
        """The number of images on which the measurement is not defined."""
        return int((~self.kept).sum())

    def interval(self, seed: int = 0, n_resamples: int = 1000) -> Interval:
        """The mean over the kept images with its bootstrap interval; NaN with n = 0 if none is kept."""
        return bootstrap(row_mean, self.values, seed=seed, n_resamples=n_resamples)

    def to_dict(self, seed: int = 0) -> dict[str, Any]:
        """The interval and `"excluded"`, fit for JSON."""
        return {**self.interval(seed).to_dict(), "excluded": self.excluded}


def pixel_l1(a: Tensor, b: Tensor) -> Tensor:
    """Mean absolute difference of images (n, 3, H, W) -> (n,); differentiable."""
    images(a, b)
    return (a - b).abs().flatten(1).mean(dim=1)


def pixel_l2(a: Tensor, b: Tensor) -> Tensor:
    """Root mean squared difference of images (n, 3, H, W) -> (n,). To measure, not to train: no gradient at zero."""
    images(a, b)
    return (a - b).flatten(1).square().mean(dim=1).sqrt()


def counterfactual_gain(
    edit: Tensor, original: Tensor, counterfactual: Tensor, distance: Distance = pixel_l2
) -> PerImage:
    """How much of the way from the original to the true counterfactual an edit went: 1 - d(edit, cf) / d(original, cf).

    1 means the edit is the counterfactual, 0 that it is no nearer than the original, below 0 that it is farther
    (there is no lower bound). Images (n, 3, H, W) in [-1, 1]; `distance` maps two batches to (n,). An image whose
    counterfactual equals the original (distance at most 1e-6) has no way to go: it is left out and counted in
    `excluded`. Raises `SparsightError` for unequal shapes or a distance of the wrong shape.
    """
    images(edit, original, counterfactual)
    way, rest = distance(original, counterfactual), distance(edit, counterfactual)
    if way.shape != (len(original),) or rest.shape != way.shape:
        raise SparsightError(f"a distance must give one number for each image, but gave shape {tuple(way.shape)}")
    kept = way > SMALLEST
    return PerImage(1 - rest[kept] / way[kept], kept)


def inside_share(edit: Tensor, original: Tensor, mask: Tensor) -> PerImage:
    """Share of the absolute pixel change that falls where the counterfactual truly differs.

    Images (n, 3, H, W), `mask` bool (n, H, W), True where original and counterfactual differ. An edit that changes
    all pixels alike scores the share of the image that the mask covers; this is the chance level. Left out, and
    counted in `excluded`: images that the edit did not change (mean change at most 1e-6), and empty masks, where no
    edit could score above 0. Raises `SparsightError` for unequal shapes or a mask that is not bool.
    """
    images(edit, original)
    if mask.shape != (len(edit), *edit.shape[2:]) or mask.dtype != torch.bool:
        raise SparsightError(f"the mask must be bool (n, H, W) like the images, not {mask.dtype} {tuple(mask.shape)}")
    change = (edit - original).abs().sum(dim=1)
    inside = (change * mask).flatten(1).sum(dim=1)
    kept = (pixel_l1(edit, original) > SMALLEST) & mask.flatten(1).any(dim=1)
    return PerImage(inside[kept] / change.flatten(1).sum(dim=1)[kept], kept)
