"""CLIPSeg (Lüddecke and Ecker 2022): where a word is in an image, without boxes; the localiser of Tinaz et al., E.2."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sparsight.concepts.annotators.loading import load_model, load_part, pictures, quiet


class ClipSeg:
    """Scores of a word at every pixel. `name_or_path` is a folder or a Hub id such as "CIDAS/clipseg-rd64-refined".

    The paper names neither the checkpoint nor whether scores are logits; ours are sigmoids (INFERRED).
    """

    def __init__(self, name_or_path: str | Path, *, device: str | torch.device = "cpu") -> None:
        from transformers import CLIPSegForImageSegmentation, CLIPSegProcessor

        self.model: Any = load_model(CLIPSegForImageSegmentation, name_or_path, "CLIPSeg localiser", device)
        self.processor: Any = load_part(CLIPSegProcessor, name_or_path, "processor of the CLIPSeg localiser")
        self.name = f"CLIPSeg {name_or_path}"

    @torch.no_grad()
    def scores(self, images: Tensor, word: str) -> Tensor:
        """How likely the word is at each pixel of images (B, 3, H, W) in [-1, 1]: (B, H, W) in [0, 1]."""
        with quiet():
            inputs = self.processor(
                text=[word] * len(images), images=pictures(images), padding=True, return_tensors="pt"
            ).to(self.model.device)
        logits = self.model(**inputs).logits.float().cpu().reshape(len(images), 1, *self._size(inputs))
        return F.interpolate(logits, images.shape[-2:], mode="bilinear", align_corners=False)[:, 0].sigmoid()

    @staticmethod
    def _size(inputs: Any) -> tuple[int, int]:
        return inputs["pixel_values"].shape[-2], inputs["pixel_values"].shape[-1]
