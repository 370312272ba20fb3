"""Florence-2 (Xiao et al. 2024) as tagger, with transformers' own model and processor."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sparsight.concepts.annotators.loading import load_model, load_part, pictures, quiet
from sparsight.errors import unknown

TASKS = ("<OD>", "<DENSE_REGION_CAPTION>")


class Florence:
    """A `Tagger`: the labels of the objects that Florence-2 names.

    `name_or_path` is a folder or a Hub id in transformers' own format, such as "florence-community/Florence-2-base".
    `task` "<OD>" gives names of objects, "<DENSE_REGION_CAPTION>" short descriptions. `tokens` bounds the answer.
    """

    def __init__(
        self, name_or_path: str | Path, *, task: str = "<OD>", tokens: int = 512, beams: int = 3,
        device: str | torch.device = "cpu",
    ) -> None:  # fmt: skip
        from transformers import Florence2ForConditionalGeneration, Florence2Processor

        if task not in TASKS:
            raise unknown("Florence-2 task", task, TASKS)
        self.model: Any = load_model(Florence2ForConditionalGeneration, name_or_path, "Florence-2 tagger", device)
        self.processor: Any = load_part(Florence2Processor, name_or_path, "processor of the Florence-2 tagger")
        self.task, self.tokens, self.beams = task, tokens, beams
        self.name = f"Florence-2 {name_or_path} {task}"

    @torch.no_grad()
    def tags(self, images: Tensor, captions: Sequence[str] | None = None) -> list[list[str]]:
        """See `Tagger`; in the order in which Florence-2 names them. Captions are not read."""
        shown = pictures(images)
        with quiet():
            inputs = self.processor(images=shown, text=[self.task] * len(shown), return_tensors="pt")
            answers = self.model.generate(
                **inputs.to(self.model.device), max_new_tokens=self.tokens, num_beams=self.beams, do_sample=False
            )
        return [self._labels(answer, (image.width, image.height)) for answer, image in zip(answers, shown, strict=True)]

    def _labels(self, answer: Tensor, size: tuple[int, int]) -> list[str]:
        parsed = self.processor.post_process_generation(sequence=answer, task=self.task, image_size=size)
        labels = (label.strip().lower() for label in parsed[self.task]["labels"])
        # Places without a name before them come out of the parser as a name such as "loc_932>".
        return list(dict.fromkeys(label for label in labels if label and ">" not in label))
