"""The images of a comparison on scenes: each is drawn by the model itself, from a caption and a noise that its number names."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from sparsight.activations import start_noise
from sparsight.baselines.editing import Unedited, edit_images
from sparsight.diffusion.conditioning import Conditioning
from sparsight.diffusion.model import DiffusionModel
from sparsight.diffusion.sampling import Loop
from sparsight.errors import SparsightError
from sparsight.metrics import QUADRANTS
from sparsight.worlds.scenes.captions import phrase
from sparsight.worlds.scenes.judging import ATTRIBUTES, PLACES
from sparsight.worlds.scenes.scene import SIZE, Thing
from sparsight.worlds.scenes.world import Scenes

FLAT = "cartoon"  # the style that all images start in, unless prompts are plain
SPLITS = {"validation": "dictionary", "test": "test"}  # streams of scenes; runs take their prompts from "harvest"
NOISE = {
    "validation": 5_000_000,
    "test": 6_000_000,
}  # where the numbers of the noise begin: emergence runs use those below
LOOKED, MOST = 8, 40  # images drawn at once in search of those that lack a concept, and for each that is wanted
EXEMPLARS = 32


class DrawnScenes(ABC):
    """Image `n` of a split has the caption of scene `n` in one style, and a noise of its own, for all seeds and methods."""

    def __init__(self) -> None:
        self._drawn: dict[tuple[str, int], Tensor] = {}

    @property
    @abstractmethod
    def model(self) -> DiffusionModel:
        """The model, loaded once."""

    @property
    @abstractmethod
    def loop(self) -> Loop:
        """How all methods step."""

    @property
    @abstractmethod
    def guidance(self) -> float:
        """How strongly prompts guide."""

    @property
    @abstractmethod
    def style(self) -> str | None:
        """The style that all prompts name, if any."""

    @property
    @abstractmethod
    def judge(self) -> str:
        """Who fills the main figures, and chooses the images."""

    @property
    @abstractmethod
    def classifiers(self) -> Mapping[str, nn.Module]:
        """The judges."""

    def prompt(self, split: str, number: int) -> str:
        """The caption of a scene, in the style that all prompts name."""
        scene = Scenes(SPLITS[split]).scene(number)
        return phrase([thing.kind for thing in scene.things], scene.background, self.style)

    def conditioning(self, split: str, numbers: Sequence[int]) -> Conditioning:
        """What the model is told, one prompt for each image."""
        return self.model.encode_prompts([self.prompt(split, n) for n in numbers], guidance=self.guidance)

    def noise(self, split: str, numbers: Sequence[int]) -> Tensor:
        """The noise that the model draws these images from."""
        return start_noise(self.model, 0, [NOISE[split] + n for n in numbers])

    def images(self, split: str, numbers: Sequence[int]) -> Tensor:
        """The images, drawn by the model and kept."""
        missing = [n for n in numbers if (split, n) not in self._drawn]
        for start in range(0, len(missing), LOOKED):
            part = missing[start : start + LOOKED]
            told, noise = self.conditioning(split, part), self.noise(split, part)
            drawn = edit_images(self.model, Unedited(), 0.0, noise, self.loop, told)
            self._drawn |= {(split, n): image for n, image in zip(part, drawn, strict=True)}
        return torch.stack([self._drawn[split, n] for n in numbers])

    def eligible(self, split: str, attributes: Sequence[str], count: int) -> list[int]:
        """The first `count` images that lack all the attributes; of a kind in a place, those that show the kind elsewhere.

        Raises `SparsightError` where the model hardly ever draws such an image.
        """
        found: list[int] = []
        looked, number = 0, 0
        while len(found) < count:
            if looked >= MOST * count:
                raise SparsightError(
                    f"only {len(found)} of {looked} images could be edited towards {' and '.join(attributes)}, but {count} are "
                    "wanted"
                )
            part: list[int] = []
            while len(part) < LOOKED:
                part += [number] if self._names(split, number, attributes) else []
                number += 1
            fits = self._lacks(self.images(split, part), attributes)
            found += [n for n, fit in zip(part, fits.tolist(), strict=True) if fit]
            looked += len(part)
        return found[:count]

    def _names(self, split: str, number: int, attributes: Sequence[str]) -> bool:
        """Whether a prompt names every thing that is to be moved."""
        said = {thing.kind for thing in Scenes(SPLITS[split]).scene(number).things}
        return {a.split("_")[0] for a in attributes if a in PLACES} <= said

    def _lacks(self, images: Tensor, attributes: Sequence[str]) -> Tensor:
        logits = self.classifiers[self.judge](images)
        fits = torch.ones(len(images), dtype=torch.bool)
        for attribute in attributes:
            fits &= logits[:, ATTRIBUTES.index(attribute)] <= 0
            if attribute in PLACES:
                fits &= logits[:, ATTRIBUTES.index(attribute.split("_")[0])] > 0
        return fits

    def exemplars(self, attribute: str) -> Tensor:
        """Renderings that have the attribute, (n, 3, 64, 64): how high a judge's logit is where it is true."""
        scenes, number = Scenes("test"), 0
        numbers: list[int] = []
        kind, _, place = attribute.partition("_")
        while len(numbers) < EXEMPLARS:
            scene = scenes.scene(number)
            wanted = (
                scene.style == attribute
                if not place
                else any(t.kind == kind and quadrant_of(t) == place for t in scene.things)
            )
            numbers += [number] if wanted else []
            number += 1
        return scenes.batch(numbers)


def quadrant_of(thing: Thing) -> str:
    """The quadrant of the middle of a thing's box."""
    middle = [(edge + thing.side / 2) >= SIZE / 2 for edge in (thing.top, thing.left)]
    return QUADRANTS[2 * middle[0] + middle[1]]
