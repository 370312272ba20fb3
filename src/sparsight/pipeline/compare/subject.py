"""What a comparison is about: the images, their truth, the judges, and what methods may learn from.

`avatars.py` edits faces that a renderer drew, `scenes.py` pictures that a text-to-image model draws itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from torch import Tensor, nn

from sparsight.baselines.data import FitData
from sparsight.concepts.concept import Concept
from sparsight.diffusion.conditioning import Conditioning
from sparsight.diffusion.model import DiffusionModel
from sparsight.diffusion.sampling import Loop
from sparsight.metrics import PerceptualDistance


class Subject(Protocol):
    """What the stages ask. Images are (n, 3, H, W) in [-1, 1]; numbers are those of a split's images."""

    @property
    def model(self) -> DiffusionModel:
        """The model, loaded once, in the recipe's precision."""
        ...

    @property
    def loop(self) -> Loop:
        """How all methods step."""
        ...

    @property
    def refine(self) -> int:
        """Refinements of each step of the inversion."""
        ...

    @property
    def attributes(self) -> Sequence[str]:
        """What the classifiers judge, in the order of their logits."""
        ...

    @property
    def concepts(self) -> Mapping[str, Concept]:
        """Concepts by name."""
        ...

    @property
    def shown(self) -> Sequence[str]:
        """The attributes that a page has room for."""
        ...

    @property
    def kinds(self) -> Mapping[str, Sequence[str]]:
        """The run's concepts by kind; methods are ranked within each, since not every method can do all kinds."""
        ...

    @property
    def words(self) -> Mapping[str, str]:
        """What a page calls the "images", a "valid" one, the "whole" change, what it says of "inversion" and of "few" images."""
        ...

    @property
    def classifiers(self) -> Mapping[str, nn.Module]:
        """The judges, by backbone: images to logits (n, attributes)."""
        ...

    @property
    def perceptual(self) -> PerceptualDistance:
        """The distance at which methods are matched."""
        ...

    @property
    def names(self) -> Mapping[str, str]:
        """The plain names of the networks behind the figures: "distance", "identity" and "judge"."""
        ...

    def identity(self, images: Tensor) -> Tensor:
        """Embeddings (n, d) of who, or what, is shown."""
        ...

    def valid(self, images: Tensor) -> Tensor:
        """Whether each image is still one of the subject: bool (n,)."""
        ...

    def key(self, seed: int) -> str:
        """A digest of all that a seed's artefacts and the sampling of its edits rest on."""
        ...

    def check(self) -> None:
        """Raise `SparsightError` for what cannot be, before anything is written."""
        ...

    def prepare(self, seed: int) -> None:
        """Make the artefacts of a seed, as far as they are not there."""
        ...

    def prepared(self, seed: int) -> bool:
        """Whether they are all there."""
        ...

    def costs(self, seed: int) -> Mapping[str, float]:
        """Seconds that artefacts took, by the name (out of `NEEDS`) of the need that they meet."""
        ...

    def data(self, seed: int, concept: str, images: int = 0) -> FitData:
        """What methods learn a concept from: all training images of a seed, or its first `images`."""
        ...

    def learnable(self, seed: int) -> int:
        """How many images `data` can give at most."""
        ...

    def related(self, attribute: str) -> Sequence[str]:
        """Attributes that are no damage when they change with this one."""
        ...

    def eligible(self, split: str, attributes: Sequence[str], count: int) -> list[int]:
        """The first `count` images that lack all the attributes and could be given each of them."""
        ...

    def images(self, split: str, numbers: Sequence[int]) -> Tensor:
        """The images."""
        ...

    def noise(self, split: str, numbers: Sequence[int]) -> Tensor | None:
        """The noise (n, c, h, w) that the model draws these images from; None where images have to be inverted."""
        ...

    def conditioning(self, split: str, numbers: Sequence[int]) -> Conditioning | None:
        """What a text-to-image model is told, a prompt for each image; None for a model without prompts."""
        ...

    def exemplars(self, attribute: str) -> Tensor | None:
        """Other images that have the attribute: what the whole change is without a truth. None where there is a truth."""
        ...

    def truth(self, split: str, numbers: Sequence[int], attribute: str) -> Tensor | None:
        """The same images with the attribute and nothing else changed; None where no one knows."""
        ...
