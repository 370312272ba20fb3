"""Where a spatial method acts: everywhere, a quarter of the image, where a word is, where an annotator sees it, or the
place that the concept itself is about.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsight.baselines.daam import daam_maps, word_mask
from sparsight.baselines.data import FitData
from sparsight.baselines.method import LABELS, LATENTS, MASKS, TEXT_TO_IMAGE, Plan
from sparsight.concepts.annotation import Annotator, united
from sparsight.concepts.concept import Concept
from sparsight.diffusion.model import DiffusionModel
from sparsight.diffusion.sampling import sample
from sparsight.errors import SparsightError, unknown
from sparsight.metrics import QUADRANTS, quadrant_region
from sparsight.steering import to_grid

AREAS = ("everywhere", "concept", "word", "masks", *QUADRANTS)

MaskOf = Callable[[Tensor, str, Sequence[str]], Tensor]
"""Masks (B, H, W) bool of a named thing in images (B, 3, H, W) in [-1, 1], given their prompts: the source "masks"."""


@dataclass(frozen=True)
class Area:
    """A region by name, found for each run. `word` is looked for by DAAM ("word") or by the source of masks ("masks")."""

    name: str = "everywhere"
    word: str = ""
    masks: MaskOf | None = None
    threshold: float = 0.4

    def __post_init__(self) -> None:
        if self.name not in AREAS:
            raise unknown("area", self.name, AREAS)

    def find(self, model: DiffusionModel, plan: Plan, grid: tuple[int, int]) -> Tensor:
        """The region of the run's unedited images on `grid`: (h, w) or (B, h, w) bool.

        "word" and "masks" sample these images first. Raises `SparsightError` where they have no word to look for.
        """
        if self.name == "everywhere":
            return torch.ones(grid, dtype=torch.bool)
        if self.name in QUADRANTS:
            return quadrant_region(self.name, grid)
        if self.name == "masks":
            return to_grid(self.seen(model, plan), grid)
        if plan.conditioning is None:
            raise SparsightError("a word's area needs a prompt that says it: give the run its prompts")
        maps = daam_maps(model, plan.noise, plan.conditioning, plan.loop, grid=grid)
        return word_mask(model, maps, plan.conditioning.prompts, self.word, self.threshold)

    def seen(self, model: DiffusionModel, plan: Plan) -> Tensor:
        """What the source of masks sees of the word in the unedited images: (B, H, W) bool, at the images' size."""
        assert self.masks is not None
        latents = sample(model, plan.noise, plan.loop, conditioning=plan.conditioning, generator=_same(plan.generator))
        images = model.decode(latents).clamp(-1, 1)
        told = plan.conditioning.prompts if plan.conditioning is not None else ()
        return self.masks(images, self.word, told * len(images) if len(told) == 1 else told)


def area_of(name: str, word: str, concept: Concept, data: FitData) -> Area:
    """The area for `concept`; the word looked for is `word`, or the concept's object or source text.

    The area "concept" is the concept's place, and everywhere for a concept without one, such as a style.
    """
    masks = data.source(MASKS) if name == "masks" else None
    where = (concept.place or "everywhere") if name == "concept" else name
    return Area(where, word or concept.thing or concept.source, masks)


def placeless(area: str, concept: Concept) -> str | None:
    """Why an edit on `area` cannot put anything into the concept's place; None where it can, or need not."""
    if concept.place is None or area != "everywhere":
        return None
    return f"it acts everywhere alike, which puts nothing into one place such as the {concept.place}"


def needed(usual: frozenset[str], latents: Sequence[int], area: str, by: str = "labels") -> frozenset[str]:
    """What an edit of latents on an area needs: labels or found latents only where none are given, and what its area asks."""
    extra = {"masks": {MASKS}, "word": {TEXT_TO_IMAGE}}.get(area, set())
    found = usual if by == "labels" else (usual - {LABELS}) | {LATENTS}
    return (usual - {LABELS} if latents else found) | extra


def masks_by(annotator: Annotator) -> MaskOf:
    """A source of masks that asks an annotator for the label; what it does not find has an empty mask."""

    def masks(images: Tensor, word: str, prompts: Sequence[str]) -> Tensor:
        found = annotator.annotate(images, prompts or None)
        blank = torch.zeros(images.shape[-2:], dtype=torch.bool)
        return torch.stack([united(own).get(word, blank) for own in found])

    return masks


def _same(generator: torch.Generator | None) -> torch.Generator | None:
    """A generator that will draw what this one is about to draw, so that looking does not change the run."""
    if generator is None:
        return None
    twin = torch.Generator(generator.device)
    twin.set_state(generator.get_state())
    return twin
