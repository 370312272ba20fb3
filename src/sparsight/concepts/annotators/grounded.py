"""Tagger, detector and segmenter as one annotator: Grounded-SAM's pipeline, which Tinaz et al. 2025 (4.1) annotate with.

Its thresholds are not in the paper. The defaults are those of Grounded-SAM's automatic labelling demo: box 0.25, text
0.20, NMS 0.5; many public launch scripts use 0.15 / 0.15 / 0.5.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsight.concepts.annotation import Annotation, Detection, Detector, Segmenter, Tagger
from sparsight.errors import SparsightError


@dataclass
class Grounded:
    """An `Annotator` of three parts. `nms` is the IoU of boxes above which only the more certain one stays.

    With `per_label` boxes suppress only boxes of their own label; Grounded-SAM's demo lets all compete.
    """

    tagger: Tagger
    detector: Detector
    segmenter: Segmenter
    nms: float = 0.5
    per_label: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.nms <= 1:
            raise SparsightError(f"the NMS threshold is an IoU from 0 to 1, not {self.nms}")

    @property
    def name(self) -> str:
        """The parts, by their own names."""
        parts = (self.tagger, self.detector, self.segmenter)
        return " -> ".join(getattr(part, "name", type(part).__name__) for part in parts) + f" (NMS {self.nms:g})"

    def annotate(
        self, images: Tensor, captions: Sequence[str] | None = None, numbers: Sequence[int] | None = None
    ) -> list[list[Annotation]]:
        """See `Annotator`; objects in the order of their certainty."""
        found = [self._kept(d) for d in self.detector.detect(images, self.tagger.tags(images, captions))]
        masks = self.segmenter.segment(images, [[detection.box for detection in image] for image in found])
        return [
            [Annotation(d.label, mask, d.box, d.score) for d, mask in zip(image, own, strict=True)]
            for image, own in zip(found, masks, strict=True)
        ]

    def _kept(self, detections: list[Detection]) -> list[Detection]:
        if not detections:
            return []
        boxes, scores = torch.tensor([d.box for d in detections]), torch.tensor([d.score for d in detections])
        names = sorted({d.label for d in detections})
        groups = torch.tensor([names.index(d.label) for d in detections]) if self.per_label else None
        return [detections[i] for i in suppress(boxes, scores, self.nms, groups)]


def box_iou(boxes: Tensor) -> Tensor:
    """IoU of every pair of boxes (n, 4) as left, top, right, bottom: (n, n). Boxes without area have IoU 0."""
    low = torch.maximum(boxes[:, None, :2], boxes[None, :, :2])
    high = torch.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    overlap = (high - low).clamp(min=0).prod(-1)
    area = (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(-1)
    return overlap / (area[:, None] + area[None] - overlap).clamp_min(1e-12)


def suppress(boxes: Tensor, scores: Tensor, iou: float, groups: Tensor | None = None) -> list[int]:
    """Non-maximum suppression: which of the boxes (n, 4) stay, best of `scores` (n,) first.

    From the best down, a box stays unless its IoU with one that stayed is above `iou`; with `groups` (n,) only boxes
    of one group compete. (torchvision has this too, but the core must run without torchvision.)
    """
    rival = box_iou(boxes) > iou
    if groups is not None:
        rival &= groups[:, None] == groups[None]
    kept: list[int] = []
    for i in scores.argsort(descending=True, stable=True).tolist():
        if not any(rival[i, j] for j in kept):
            kept.append(i)
    return kept
