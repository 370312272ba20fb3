"""Grounding DINO (Liu et al. 2023) as detector, with transformers' own model and processor."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sparsight.concepts.annotation import Detection
from sparsight.concepts.annotators.loading import load_model, load_part, pictures, quiet


class GroundingDino:
    """A `Detector`. `box` is the least certainty of a box, `text` that of a word's claim to it.

    `name_or_path` is a folder or a Hub id such as "IDEA-Research/grounding-dino-tiny" (the SwinT-OGC that Grounded-SAM
    uses). Tags that do not fit into one text of the model are looked for in several passes.
    """

    def __init__(
        self, name_or_path: str | Path, *, box: float = 0.25, text: float = 0.20, device: str | torch.device = "cpu"
    ) -> None:
        from transformers import AutoProcessor, GroundingDinoForObjectDetection

        self.model: Any = load_model(GroundingDinoForObjectDetection, name_or_path, "Grounding DINO detector", device)
        self.processor: Any = load_part(AutoProcessor, name_or_path, "processor of the Grounding DINO detector")
        self.box, self.text = box, text
        self.name = f"Grounding DINO {name_or_path} (box {box:g}, text {text:g})"

    @torch.no_grad()
    def detect(self, images: Tensor, tags: Sequence[Sequence[str]]) -> list[list[Detection]]:
        """See `Detector`. A box is labelled with the longest tag within the words that claimed it."""
        found = []
        for picture, own in zip(pictures(images), tags, strict=True):
            words = sorted({clean(tag) for tag in own} - {""})
            found.append([hit for group in self._groups(words) for hit in self._pass(picture, group)])
        return found

    def _pass(self, picture: Any, tags: list[str]) -> Iterator[Detection]:
        with quiet():
            inputs = self.processor(images=picture, text=[tags], return_tensors="pt").to(self.model.device)
            result = self.processor.post_process_grounded_object_detection(
                self.model(**inputs), inputs["input_ids"], threshold=self.box, text_threshold=self.text,
                target_sizes=[(picture.height, picture.width)],
            )[0]  # fmt: skip
        rows = zip(result["boxes"].tolist(), result["scores"].tolist(), result["text_labels"], strict=True)
        for (left, top, right, bottom), score, phrase in rows:
            label = claimed(phrase, tags)
            x0, x1 = max(0.0, left), min(float(picture.width), right)
            y0, y1 = max(0.0, top), min(float(picture.height), bottom)
            if label and x0 < x1 and y0 < y1:
                yield Detection(label, (x0, y0, x1, y1), float(score))

    def _groups(self, tags: list[str]) -> Iterator[list[str]]:
        """Neighbouring tags, as many as one text of the model holds."""
        room, group, used = self.model.config.max_text_len - 2, list[str](), 0
        for tag in tags:
            length = len(self.processor.tokenizer(f"{tag}.", add_special_tokens=False)["input_ids"])
            if group and used + length > room:
                yield group
                group, used = [], 0
            group, used = [*group, tag], used + length
        if group:
            yield group


def clean(tag: str) -> str:
    """A tag as Grounding DINO takes it: lower case, no full stop (it separates tags), single blanks."""
    return " ".join(tag.lower().replace(".", " ").split())


def claimed(phrase: str, tags: Sequence[str]) -> str | None:
    """The longest of `tags` whose words all stand in `phrase` in order, or of which `phrase` is a part; else None."""
    said = f" {clean(phrase)} "
    inside = [tag for tag in tags if f" {tag} " in said]
    around = [tag for tag in tags if said.strip() and said in f" {tag} "]
    return max(inside or around, key=len, default=None)
