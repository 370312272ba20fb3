"""Keeps the IoU of every target at every threshold, so that the threshold is chosen on other images than are scored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sparsight.concepts.maps import areas, cells
from sparsight.concepts.targets import Targets
from sparsight.errors import SparsightError, unknown
from sparsight.metrics.bootstrap import Interval, bootstrap

THRESHOLDS = tuple(i / 40 for i in range(40))


class CompositionScore(NamedTuple):
    """Mean IoU over targets with its interval over images, the threshold, and the number of targets."""

    iou: Interval
    threshold: float | None
    targets: int

    def to_dict(self) -> dict[str, Any]:
        """Fit for JSON: value, low, high, n (images), threshold, targets."""
        return {**self.iou.to_dict(), "threshold": self.threshold, "targets": self.targets}


class Tally:
    """Collects IoUs of one way of reading, a batch at a time.

    The paper's threshold is "preset"; choose it as the `best()` of a tally of validation images, then ask `score` of
    the tally of test images. `resize` as in `iou_at`.
    """

    def __init__(self, thresholds: Sequence[float] = THRESHOLDS, resize: str = "nearest") -> None:
        if not thresholds:
            raise SparsightError("a sweep needs a threshold at least")
        self.thresholds, self.resize = tuple(thresholds), resize
        self._iou: list[Tensor] = []
        self._image: list[Tensor] = []

    def add(self, scores: Tensor, targets: Targets, numbers: Sequence[int]) -> None:
        """Add the scores (n, h, w) of a batch's targets; `numbers` are the numbers of its images."""
        self._iou.append(iou_at(scores, targets.masks, self.thresholds, self.resize))
        self._image.append(torch.tensor(list(numbers), dtype=torch.int64)[targets.image])

    @property
    def iou(self) -> Tensor:
        """All IoUs, (targets, thresholds)."""
        return torch.cat(self._iou) if self._iou else torch.zeros(0, len(self.thresholds))

    def curve(self) -> list[tuple[float, float]]:
        """Mean IoU by threshold."""
        if not len(self.iou):
            raise SparsightError("no target was added, so there is no threshold to choose")
        return list(zip(self.thresholds, self.iou.mean(0).tolist(), strict=True))

    def best(self) -> float:
        """The threshold of the largest mean IoU; the lowest of equal ones."""
        return max(self.curve(), key=lambda point: point[1])[0]

    def score(self, threshold: float, seed: int = 0) -> CompositionScore:
        """Mean IoU at one of the thresholds, with a bootstrap interval over images."""
        if threshold not in self.thresholds:
            raise SparsightError(
                f"the threshold {threshold:g} was not swept (valid: {self.thresholds[0]:g} to {self.thresholds[-1]:g})"
            )
        iou = self.iou[:, self.thresholds.index(threshold)]
        image = torch.cat(self._image) if self._image else torch.zeros(0, dtype=torch.int64)
        return CompositionScore(mean_iou(iou, image, seed), threshold, len(iou))


def iou_at(scores: Tensor, masks: Tensor, thresholds: Sequence[float] = THRESHOLDS, resize: str = "nearest") -> Tensor:
    """IoU of `scores` (n, h, w) above each threshold with `masks` (n, H, W) bool: (n, thresholds).

    "nearest" compares at the masks' pixels (INFERRED, the default), "grid" at the map's cells, where a cell belongs to
    a mask that covers half of it or more. A mask that no cell belongs to has IoU 0 then.
    """
    if resize not in ("nearest", "grid"):
        raise unknown("resizing of maps and masks", resize, ("nearest", "grid"))
    if scores.ndim != 3 or len(scores) != len(masks):
        raise SparsightError(f"{len(masks)} masks need as many maps (n, h, w) of scores, not {tuple(scores.shape)}")
    grid = (scores.shape[1], scores.shape[2])
    pixels, area = cells(masks, grid), areas((masks.shape[1], masks.shape[2]), grid)
    if resize == "grid":
        pixels, area = (2 * pixels >= area).float(), torch.ones_like(area)
    flat, wanted = scores.flatten(1), pixels.sum(1)
    columns = []
    for threshold in thresholds:
        on = (flat > threshold).float()
        both = (on * pixels).sum(1)
        columns.append(both / (on @ area + wanted - both).clamp_min(1.0))
    return torch.stack(columns, 1)


def mean_iou(iou: Tensor, image: Tensor, seed: int = 0) -> Interval:
    """Mean of `iou` (n,) over targets; the bootstrap resamples images `image` (n,), whose nouns belong together.

    The interval's n is the number of images.
    """
    _, index = image.unique(return_inverse=True)
    count = int(index.max()) + 1 if len(index) else 0
    total = torch.zeros(count, dtype=torch.float64).index_add_(0, index, iou.double())
    number = torch.zeros(count, dtype=torch.float64).index_add_(0, index, torch.ones_like(iou, dtype=torch.float64))
    return bootstrap(lambda a, b: a.sum(1) / b.sum(1), total, number, seed=seed)
