"""Train the scenes' annotators on renderings and on likenesses of them by the world's own models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparsight.worlds.augment import augment
from sparsight.worlds.judging import fast, half, ready, training_of, write_image_settings
from sparsight.worlds.scenes.annotators import build_annotator, segment_logits
from sparsight.worlds.scenes.data import SceneData
from sparsight.worlds.training import Progress

STEPS = {"tagger": 1800, "styles": 200, "segmenter": 2500}


def train_annotator(
    kind: str, data: SceneData, out: Path, work: Path, *, steps: int, batch: int = 32, learning_rate: float = 1.5e-3,
    seed: int = 0, progress: Progress | None = None,
) -> nn.Module:  # fmt: skip
    """Train one of the annotators; resumes from `work`. Returns the averaged model, also saved (fp16) to `out`."""
    model = ready(build_annotator(kind, seed))
    truth = _truth(kind, data)

    def loss_of(generator: torch.Generator) -> Tensor:
        chosen = torch.randint(len(data), (batch,), generator=generator)
        images = augment(data.images(chosen), generator, shift=0 if kind == "segmenter" else 2)
        with fast():
            found = segment_logits(model, images) if kind == "segmenter" else model(pixel_values=images).logits
        return _loss(kind, found.float(), truth[chosen])

    training = training_of(model, work, steps, learning_rate, seed)
    training.run(loss_of, progress)
    save: Any = training.averaged.save_pretrained
    save(out, state_dict=half(training.averaged))
    write_image_settings(out, "SegformerImageProcessor" if kind == "segmenter" else "ViTImageProcessor")
    return training.averaged


def _truth(kind: str, data: SceneData) -> Tensor:
    if kind == "segmenter":
        return torch.from_numpy(data.segments)
    return data.tags() if kind == "tagger" else data.styles()


def _loss(kind: str, found: Tensor, truth: Tensor) -> Tensor:
    if kind == "tagger":
        return F.binary_cross_entropy_with_logits(found, truth)
    return F.cross_entropy(found, truth.long())
