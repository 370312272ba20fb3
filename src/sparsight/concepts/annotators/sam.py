"""SAM (Kirillov et al. 2023) as segmenter, with transformers' own model and processor."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sparsight.concepts.annotation import Box
from sparsight.concepts.annotators.loading import load_model, load_part, pictures, quiet


class Sam:
    """A `Segmenter`: one mask for each box. `name_or_path` is a folder or a Hub id such as "facebook/sam-vit-huge"."""

    def __init__(self, name_or_path: str | Path, *, device: str | torch.device = "cpu") -> None:
        from transformers import SamModel, SamProcessor

        self.model: Any = load_model(SamModel, name_or_path, "SAM segmenter", device)
        self.processor: Any = load_part(SamProcessor, name_or_path, "processor of the SAM segmenter")
        self.name = f"SAM {name_or_path}"

    @torch.no_grad()
    def segment(self, images: Tensor, boxes: Sequence[Sequence[Box]]) -> list[Tensor]:
        """See `Segmenter`."""
        height, width = images.shape[-2:]
        masks = []
        for picture, own in zip(pictures(images), boxes, strict=True):
            masks.append(self._of(picture, own) if own else torch.zeros(0, height, width, dtype=torch.bool))
        return masks

    def _of(self, picture: Any, boxes: Sequence[Box]) -> Tensor:
        with quiet():
            inputs = self.processor(picture, input_boxes=[[list(box) for box in boxes]], return_tensors="pt")
        sizes = inputs.pop("original_sizes"), inputs.pop("reshaped_input_sizes")
        # The processor's boxes are float64, which not every device has.
        given = {name: value.float().to(self.model.device) for name, value in inputs.items()}
        predicted = self.model(**given, multimask_output=False).pred_masks.cpu()
        return self.processor.image_processor.post_process_masks(predicted, *sizes)[0][:, 0].bool()
