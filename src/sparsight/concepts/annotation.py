"""What vision models, or a renderer, say of an image: labelled masks. And the parts that can say it, as protocols.

Source: Tinaz et al. 2025, section 4.1: tags of the image -> boxes of the tags -> masks of the boxes, as in Grounded-SAM
(Ren et al. 2024). No part sees more than images, words and boxes, so that each can be replaced alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from sparsight.errors import SparsightError

Box = tuple[float, float, float, float]


@dataclass(frozen=True, eq=False)
class Annotation:
    """One object of an image: `label`, `mask` (H, W) bool, `box` and `score`.

    The box is (left, top, right, bottom) in pixels, right and bottom excluded. The score is the annotator's certainty
    in [0, 1]; true masks have 1.
    """

    label: str
    mask: Tensor
    box: Box
    score: float = 1.0

    def __post_init__(self) -> None:
        if self.mask.ndim != 2 or self.mask.dtype != torch.bool:
            raise SparsightError(
                f"the mask of {self.label!r} must be bool (H, W), not {self.mask.dtype} {tuple(self.mask.shape)}"
            )
        if not self.label.strip():
            raise SparsightError("an annotation needs a label that is not blank")

    @classmethod
    def of(cls, label: str, mask: Tensor, score: float = 1.0) -> Annotation:
        """An annotation whose box is the smallest around its mask; an empty mask has the box (0, 0, 0, 0)."""
        rows, columns = mask.any(1).nonzero().flatten().tolist(), mask.any(0).nonzero().flatten().tolist()
        if not rows:
            return cls(label, mask, (0.0, 0.0, 0.0, 0.0), score)
        return cls(label, mask, (columns[0], rows[0], columns[-1] + 1.0, rows[-1] + 1.0), score)

    @classmethod
    def whole(cls, label: str, size: tuple[int, int]) -> Annotation:
        """A label of the whole image of (height, width), such as its style: latents with uniform maps meet it."""
        return cls.of(label, torch.ones(size, dtype=torch.bool))


class Detection(NamedTuple):
    """A found object before it has a mask; the box as in `Annotation`."""

    label: str
    box: Box
    score: float


class Tagger(Protocol):
    """Says what is in an image, not where."""

    def tags(self, images: Tensor, captions: Sequence[str] | None = None) -> list[list[str]]:
        """The labels of each of the images (B, 3, H, W) in [-1, 1]; `captions` are their prompts, if there are any."""
        ...


class Detector(Protocol):
    """Says where given labels are."""

    def detect(self, images: Tensor, tags: Sequence[Sequence[str]]) -> list[list[Detection]]:
        """The objects found in each of the images (B, 3, H, W), looking for that image's tags only."""
        ...


class Segmenter(Protocol):
    """Turns boxes into masks."""

    def segment(self, images: Tensor, boxes: Sequence[Sequence[Box]]) -> list[Tensor]:
        """For each of the images (B, 3, H, W) one mask a box, (n, H, W) bool."""
        ...


class Annotator(Protocol):
    """Says what is in an image and where, pixel by pixel."""

    @property
    def name(self) -> str:
        """What made the annotations; kept with them, and compared when an interrupted annotation goes on."""
        ...

    def annotate(
        self, images: Tensor, captions: Sequence[str] | None = None, numbers: Sequence[int] | None = None
    ) -> list[list[Annotation]]:
        """The objects of each of the images (B, 3, H, W) in [-1, 1]; masks (H, W).

        `captions` are the images' prompts and `numbers` their places in the image source; most annotators need
        neither.
        """
        ...


def united(objects: Sequence[Annotation]) -> dict[str, Tensor]:
    """The mask (H, W) bool of each label of one image: where any object of that label is."""
    masks: dict[str, Tensor] = {}
    for found in objects:
        masks[found.label] = masks[found.label] | found.mask if found.label in masks else found.mask
    return masks


def one_size(objects: Sequence[Sequence[Annotation]]) -> tuple[int, int] | None:
    """The (height, width) that all masks share; None without any. Masks of several sizes are a `SparsightError`."""
    sizes = {(found.mask.shape[0], found.mask.shape[1]) for image in objects for found in image}
    if len(sizes) > 1:
        shown = ", ".join(f"{height}x{width}" for height, width in sorted(sizes))
        raise SparsightError(f"the masks of a batch must have one size, but have {shown} pixels")
    return sizes.pop() if sizes else None
