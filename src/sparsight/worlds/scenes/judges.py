"""What an experiment asks of the world `scenes`: annotations of any picture, where a kind is, which style it is in."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sparsight.concepts import Annotation
from sparsight.errors import unknown
from sparsight.worlds.scenes.annotators import segments
from sparsight.worlds.scenes.captions import phrase
from sparsight.worlds.scenes.data import TAGS
from sparsight.worlds.scenes.scene import BACKGROUNDS, KINDS, SIZE, STYLES, Scene

if TYPE_CHECKING:
    from sparsight.worlds.scenes.world import ScenesWorld

LEAST = 20  # pixels: less of a kind is taken for a speck


class SceneAnnotator:
    """An `Annotator`: masks of the kinds by the segmenter, of the background by what is left, the style everywhere."""

    name = "the segmenter, tagger and style classifier of scenes"

    def __init__(self, world: ScenesWorld) -> None:
        self.world = world

    @torch.no_grad()
    def annotate(
        self, images: Tensor, captions: Sequence[str] | None = None, numbers: Sequence[int] | None = None
    ) -> list[list[Annotation]]:
        """See `Annotator`."""
        found, grounds, styles = (
            segments(self.world.segmenter, images), background_of(self.world, images), style_of(self.world, images)
        )  # fmt: skip
        return [_objects(*one) for one in zip(found, grounds.tolist(), styles.tolist(), strict=True)]


def _objects(parts: Tensor, ground: int, style: int) -> list[Annotation]:
    objects = [Annotation.of(kind, parts == place) for place, kind in enumerate(KINDS, 1)]
    kept = [one for one in objects if int(one.mask.sum()) >= LEAST]
    return [*kept, Annotation.of(BACKGROUNDS[ground], parts == 0), Annotation.whole(STYLES[style], (SIZE, SIZE))]


@torch.no_grad()
def style_of(world: ScenesWorld, images: Tensor) -> Tensor:
    """The place in `STYLES` of the style of each image (n, 3, 64, 64): (n,) int64."""
    return torch.cat([world.style_classifier(pixel_values=part).logits.argmax(1) for part in images.split(128)])


@torch.no_grad()
def background_of(world: ScenesWorld, images: Tensor) -> Tensor:
    """The place in `BACKGROUNDS` of the background of each image (n, 3, 64, 64): (n,) int64."""
    logits = torch.cat([world.tagger(pixel_values=part).logits for part in images.split(128)])
    return logits[:, [TAGS.index(name) for name in BACKGROUNDS]].argmax(1)


def localise(world: ScenesWorld, images: Tensor, kind: str) -> Tensor:
    """Where a kind is in each image (n, 3, 64, 64): (n, 64, 64) fp32, 1 on it; all 0 where only a speck is found."""
    if kind not in KINDS:
        raise unknown("kind", kind, KINDS)
    mask = segments(world.segmenter, images) == KINDS.index(kind) + 1
    return (mask & (mask.flatten(1).sum(1) >= LEAST)[:, None, None]).float()


def prompt_for(kind: str, number: int) -> str:
    """A prompt that names one object, with a background and a style that depend on `number` alone."""
    rng = random.Random(f"scenes/one/{number}")
    return phrase([kind], rng.choice(BACKGROUNDS), rng.choice(STYLES))


def without_style(scene: Scene) -> str:
    """The prompt of a scene that leaves the style to the model."""
    return phrase([thing.kind for thing in scene.things], scene.background, None)
