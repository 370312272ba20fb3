"""Faces as a run edits them: inverted to noise, and sampled back under an intervention."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sparsight.concepts import Concept
from sparsight.diffusion import Loop, invert, sample
from sparsight.steering import Steering, Window

if TYPE_CHECKING:
    from sparsight.pipeline.casl.run import CaslRun


@dataclass(frozen=True)
class Faces:
    """Test or validation faces of one concept: their numbers, the noise they invert to, and what it returns unedited."""

    numbers: list[int]
    noise: Tensor
    original: Tensor

    def first(self, count: int) -> Faces:
        """The first `count` of them."""
        return Faces(self.numbers[:count], self.noise[:count], self.original[:count])


def faces(run: CaslRun, concept: Concept, split: str, count: int) -> Faces:
    """Faces that lack the concept, inverted, and their unedited reconstruction (EPR's x, casl.md 8.2 row 16)."""
    numbers = run.world.eligible(split, str(concept.attribute), count)
    images = run.world.source(split).batch(numbers)
    noise = inverted(run, images)
    return Faces(numbers, noise, edited(run, None, noise))


@torch.no_grad()
def inverted(run: CaslRun, images: Tensor) -> Tensor:
    """The noise that the run's sampler turns back into these images."""
    config = run.recipe.steer
    return invert(run.model, run.model.encode(images), Loop(steps=config.steps, refine=config.refine))


@torch.no_grad()
def edited(run: CaslRun, intervention: Steering | None, noise: Tensor) -> Tensor:
    """Images (n, 3, H, W) sampled from `noise` under an intervention; None gives the reconstruction."""
    config, acting = run.recipe.steer, [] if intervention is None else [intervention]
    loop = Loop(steps=config.steps, mode=config.mode)
    return run.model.decode(sample(run.model, noise, loop, interventions=acting)).clamp(-1, 1)


def window(run: CaslRun) -> Window:
    """The recipe's window."""
    return Window(run.recipe.steer.low, run.recipe.steer.high)
