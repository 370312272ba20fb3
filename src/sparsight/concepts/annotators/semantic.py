"""Any semantic segmentation model of transformers as annotator: the world's own segmenter, SegFormer, UperNet ..."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sparsight.concepts.annotation import Annotation
from sparsight.concepts.annotators.loading import load_model, load_part, pictures, quiet


class Semantic:
    """An `Annotator`: one mask for each label that wins some pixels, with the smallest box around it.

    `ignore` are labels that are no objects. Masks of fewer than `least` pixels are left out. With `pieces` every
    connected piece of a label is an object of its own, as boxes would tell them apart; pieces that touch stay one.
    """

    def __init__(
        self, name_or_path: str | Path, *, ignore: Collection[str] = ("background",), least: int = 1,
        pieces: bool = False, device: str | torch.device = "cpu",
    ) -> None:  # fmt: skip
        from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation

        what = "segmentation model"
        self.model: Any = load_model(AutoModelForSemanticSegmentation, name_or_path, what, device)
        self.processor: Any = load_part(AutoImageProcessor, name_or_path, f"image processor of the {what}")
        self.ignore, self.least, self.pieces = frozenset(ignore), least, pieces
        self.name = f"segmentation {name_or_path}" + (" in pieces" if pieces else "")

    def annotate(
        self, images: Tensor, captions: Sequence[str] | None = None, numbers: Sequence[int] | None = None
    ) -> list[list[Annotation]]:
        """See `Annotator`; the score is the mean probability of the label within its mask."""
        certainty, winner = self.probabilities(images).max(1)
        return [list(self._objects(*maps)) for maps in zip(certainty, winner, strict=True)]

    @torch.no_grad()
    def probabilities(self, images: Tensor) -> Tensor:
        """The probability of every label at every pixel of images (B, 3, H, W): (B, labels, H, W)."""
        with quiet():
            inputs = self.processor(images=pictures(images), return_tensors="pt").to(self.model.device)
        logits = self.model(**inputs).logits.float().cpu()
        return F.interpolate(logits, images.shape[-2:], mode="bilinear", align_corners=False).softmax(1)

    def _objects(self, certainty: Tensor, winner: Tensor) -> Iterator[Annotation]:
        for index in winner.unique().tolist():
            label = self.model.config.id2label[index]
            if label in self.ignore:
                continue
            mask = winner == index
            for piece in connected(mask) if self.pieces else [mask]:
                if int(piece.sum()) >= self.least:
                    yield Annotation.of(label, piece, float(certainty[piece].mean()))


def connected(mask: Tensor) -> list[Tensor]:
    """The pieces of a mask (H, W) bool that hang together by sides or corners."""
    import numpy as np
    from scipy.ndimage import label

    numbered, count = label(mask.numpy(), structure=np.ones((3, 3)))
    pieces = torch.from_numpy(numbered)
    return [pieces == number for number in range(1, count + 1)]
