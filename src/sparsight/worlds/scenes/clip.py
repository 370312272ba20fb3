"""The scenes' CLIP, in transformers' own format, and its training. It is not OpenAI's."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import CLIPConfig, CLIPModel, CLIPVisionConfig

from sparsight.files import atomic
from sparsight.worlds.augment import augment
from sparsight.worlds.clip import clip_loss
from sparsight.worlds.judging import fast, half, ready, training_of, write_image_settings
from sparsight.worlds.scenes.captions import PLACES, STYLE_WORDS, caption, noun_phrase
from sparsight.worlds.scenes.data import SceneData
from sparsight.worlds.scenes.scene import BACKGROUNDS, KINDS, STYLES
from sparsight.worlds.scenes.text import WIDTH, build_tokenizer, encode_words, text_config
from sparsight.worlds.training import Progress

STEPS = 900
_MOST_SCALE = 4.6052  # ln 100, as in CLIP
NAMES = (
    [noun_phrase(kind) for kind in KINDS],
    [PLACES[background] for background in BACKGROUNDS],
    [STYLE_WORDS[style] for style in STYLES],
)
"""What one can call the kinds, the backgrounds and the styles, each list in its own order."""

_README = """---
library_name: transformers
tags: [clip, sparsight]
---
# A small CLIP of sparsight's scenes

A `CLIPModel` trained by sparsight on 64x64 drawn scenes and templated captions of them. It is **not** OpenAI's CLIP:
it knows about forty words and one kind of picture. It loads with `CLIPModel.from_pretrained` and
`AutoTokenizer.from_pretrained`.
"""


def build_clip(seed: int = 0) -> CLIPModel:
    """An untrained CLIP: ViT on 8-pixel patches, a two-layer text tower, 128 shared dimensions."""
    torch.manual_seed(seed)
    vision = CLIPVisionConfig(
        image_size=64, patch_size=8, hidden_size=128, intermediate_size=384, num_hidden_layers=4,
        num_attention_heads=4, hidden_act="gelu",
    )  # fmt: skip
    text = text_config(layers=2)
    return CLIPModel(CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=WIDTH))


def train_clip(
    data: SceneData, out: Path, work: Path, *, steps: int, batch: int = 96, learning_rate: float = 1e-3,
    seed: int = 0, progress: Progress | None = None,
) -> CLIPModel:  # fmt: skip
    """Train on images and captions drawn anew each time; resumes from `work`. Also saved (fp16) to `out`."""
    model: Any = ready(build_clip(seed))
    tokenizer, truths = build_tokenizer(), _shares(data)
    names = [name for group in NAMES for name in group]

    def texts_of(texts: list[str]) -> Tensor:
        found = model.text_projection(model.text_model(input_ids=encode_words(tokenizer, texts)).pooler_output)
        return F.normalize(found.float(), dim=-1)

    def loss_of(generator: torch.Generator) -> Tensor:
        chosen = torch.randint(len(data), (batch,), generator=generator)
        rng = random.Random(int(torch.randint(2**31, (), generator=generator)))
        captions = [caption(data.scenes[i], rng, left_out=0.3) for i in chosen.tolist()]
        with fast():
            seen = model.vision_model(pixel_values=augment(data.images(chosen), generator)).pooler_output
            image = F.normalize(model.visual_projection(seen).float(), dim=-1)
            said, named = texts_of([*captions, *names]).split([batch, len(names)])
        scale = model.logit_scale.clamp(max=_MOST_SCALE).exp()
        return clip_loss(image, said, scale) + _naming_loss(scale * image @ named.T, [t[chosen] for t in truths])

    training = training_of(model, work, steps, learning_rate, seed)
    training.run(loss_of, progress)
    averaged = training.averaged
    assert isinstance(averaged, CLIPModel)
    save_clip(averaged, out)
    return averaged


def _shares(data: SceneData) -> list[Tensor]:
    """Which kinds, background and style each scene has, each (N, choices) adding up to one."""
    tags = data.tags()
    kinds, grounds = tags.split([len(KINDS), len(BACKGROUNDS)], dim=1)
    return [kinds / kinds.sum(1, keepdim=True), grounds, F.one_hot(data.styles(), len(STYLES)).float()]


def _naming_loss(scores: Tensor, truths: list[Tensor]) -> Tensor:
    """Cross entropy between the short names of each group: whole captions alone teach the rarer words slowly."""
    groups = scores.split([len(group) for group in NAMES], dim=1)
    return torch.stack([F.cross_entropy(score, truth) for score, truth in zip(groups, truths, strict=True)]).sum()


def save_clip(model: CLIPModel, out: Path) -> None:
    """Write model (fp16), tokenizer, image processor settings and README to the folder `out`."""
    model.save_pretrained(out, state_dict=half(model))
    build_tokenizer().save_pretrained(str(out))
    write_image_settings(out, "CLIPImageProcessor")
    with atomic(Path(out) / "README.md") as temporary:
        temporary.write_text(_README, "utf-8")
