"""CLIP's loss on the avatars, and its training."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import CLIPModel

from sparsight.worlds.avatars.captions import caption, contrast
from sparsight.worlds.avatars.faces import ATTRIBUTES
from sparsight.worlds.avatars.judge_clip_model import CONTEXT, build_clip, build_tokenizer, save_clip
from sparsight.worlds.avatars.judges_training import Mixture, harden
from sparsight.worlds.clip import clip_loss
from sparsight.worlds.judging import fast, ready, training_of
from sparsight.worlds.training import Progress

CONTRAST = 20.0  # the contrary pairs: at a quarter of this weight, fine details such as the mouth go unlearnt
_MOST_SCALE = 4.6052  # ln 100, as in CLIP


def contrast_loss(image: Tensor, absent: Tensor, present: Tensor, holds: Tensor, scale: Tensor) -> Tensor:
    """The same loss over pairs of contrary sentences: which of the two, (A, D) each, does each image (B, D) fit?

    `holds` (B, A) says for which attributes the second is true. Such pairs differ in one fact only, and so
    teach what the other captions of a batch, which differ in many, rarely do.
    """
    return F.binary_cross_entropy_with_logits(scale * image @ (present - absent).T, holds)


def train_clip(
    data: Mixture, out: Path, work: Path, *, steps: int, batch: int = 256, learning_rate: float = 1e-3,
    start: CLIPModel | None = None, seed: int = 0, progress: Progress | None = None,
) -> CLIPModel:  # fmt: skip
    """Train CLIP on images and captions drawn anew each time.

    Returns the averaged model, which is also saved (fp16) to `out`.
    """
    model: Any = ready(start or build_clip(seed))
    tokenizer, faces = build_tokenizer(), data.faces

    def embed_texts(texts: list[str]) -> Tensor:
        tokens = tokenizer(texts, padding=True, truncation=True, max_length=CONTEXT, return_tensors="pt")
        with fast():
            found = model.text_projection(model.text_model(**tokens).pooler_output)
        return F.normalize(found.float(), dim=-1)

    def loss_of(generator: torch.Generator) -> Tensor:
        images, positions = data.batch(batch, generator)
        rng = random.Random(int(torch.randint(2**31, (), generator=generator)))
        pairs = [contrast(name, rng) for name in ATTRIBUTES]
        captions = [caption(faces[i], rng) for i in positions.tolist()]
        texts = embed_texts([*captions, *(a for a, _ in pairs), *(b for _, b in pairs)])

        def loss(given: Tensor, texts: Tensor = texts) -> Tensor:
            with fast():
                found = model.visual_projection(model.vision_model(given).pooler_output)
            image, scale = F.normalize(found.float(), dim=-1), model.logit_scale.clamp(max=_MOST_SCALE).exp()
            text, absent, present = texts.split([len(captions), len(pairs), len(pairs)])
            contrary = contrast_loss(image, absent, present, data.labels[positions], scale)
            return clip_loss(image, text, scale) + CONTRAST * contrary

        return loss(harden(images, lambda given: loss(given, texts.detach()), generator))

    training = training_of(model, work, steps, learning_rate, seed)
    training.run(loss_of, progress)
    averaged = training.averaged
    assert isinstance(averaged, CLIPModel)
    save_clip(averaged, out)
    return averaged
