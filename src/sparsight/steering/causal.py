"""Is a site causal? Put one face's tokens into another face's sampling and see what follows.

Skip connections let a U-Net ignore its bottleneck. Before any steering, the swap test says how much of the final
image a site decides inside a window: 1 if the whole image follows the swapped tokens, 0 if nothing does.
Where labels are known, the mean-difference test says whether a few times the plain class difference flips a class.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sparsight.diffusion import Conditioning, DiffusionModel, Loop, sample
from sparsight.diffusion.sites import Step
from sparsight.steering.interventions import Window


@dataclass
class _Put:
    """Replaces a site's tokens by given ones."""

    site: str
    window: Window
    tokens: Tensor = field(default_factory=lambda: torch.zeros(0))

    def active(self, t: int) -> bool:
        return t in self.window

    def __call__(self, tokens: Tensor, step: Step) -> Tensor:
        return self.tokens


@dataclass(frozen=True)
class Swap:
    """Images (n, 3, H, W) of one swap test: of noise A, of noise B, and of A with B's tokens at the site."""

    own: Tensor
    donor: Tensor
    swapped: Tensor

    @property
    def followed(self) -> Tensor:
        """Share of the way from A to B that each image went, projected on the straight line: (n,), 0 to 1."""
        way, went = (self.donor - self.own).flatten(1), (self.swapped - self.own).flatten(1)
        return (way * went).sum(1) / (way * way).sum(1).clamp_min(1e-12)


@torch.no_grad()
def swap_test(
    model: DiffusionModel, site: str, noise: Tensor, loop: Loop | None = None, window: Window | None = None,
    conditioning: Conditioning | None = None,
) -> Swap:  # fmt: skip
    """Sample each row of `noise` (n, c, h, w) with the tokens that the next row has at the same step, inside the window.

    Both runs are plain DDIM; raises `SparsightError` for an unknown site. A text-to-image model needs a `conditioning`;
    both halves of guidance are swapped, each with its own kind. With one prompt for all rows what moves is layout.
    """
    loop, put = loop or Loop(steps=50), _Put(site, window or Window())
    model.site(site)
    own = swapped = noise
    pairs = model.pairs(loop.steps)
    for index, (t, t_next) in enumerate(pairs):
        with model.capture([site]) as tape:
            prediction = model.predict(own, t, conditioning, index=index, steps=len(pairs))
        put.tokens = tape[site].unflatten(0, (-1, len(own))).roll(-1, 1).flatten(0, 1)
        with model.edit([put] if put.active(t) else []):
            changed = model.predict(swapped, t, conditioning, index=index, steps=len(pairs))
        signal, sigma = model.schedule.levels(t_next, own)
        own, swapped = signal * prediction.x0 + sigma * prediction.eps, signal * changed.x0 + sigma * changed.eps
    images = model.decode(own).clamp(-1, 1)
    return Swap(images, images.roll(-1, 0), model.decode(swapped).clamp(-1, 1))


def attributes_followed(own: Tensor, donor: Tensor, swapped: Tensor) -> float:
    """Of the decisions (n, attributes, bool) in which A and B differ, the share where the swapped image agrees with B."""
    differ = own != donor
    return float((swapped == donor)[differ].float().mean())


@dataclass(frozen=True)
class _Add:
    """Adds to a site's tokens the shift (N, C) that belongs to the timestep."""

    site: str
    shifts: dict[int, Tensor]
    factor: float

    def active(self, t: int) -> bool:
        return t in self.shifts

    def __call__(self, tokens: Tensor, step: Step) -> Tensor:
        assert isinstance(step.t, int)
        return tokens + self.factor * self.shifts[step.t]


@torch.no_grad()
def class_differences(
    model: DiffusionModel, site: str, images: Tensor, labels: Tensor, steps: int = 50, window: Window | None = None
) -> dict[int, Tensor]:
    """Mean tokens with each attribute minus without: {t: (attributes, N, C)} for the loop's timesteps in the window.

    `images` (M, 3, H, W) are noised forward to each t; `labels` (M, attributes) are bool. An attribute that all
    images or none have gives NaN.
    """
    window, latents = window or Window(), model.encode(images)
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))
    own = labels.double()
    weights = (own / own.sum(0) - (1 - own) / (1 - own).sum(0)).float()
    found = {}
    for t in (t for t, _ in model.pairs(steps) if t in window):
        signal, sigma = model.schedule.levels(t, latents)
        with model.capture([site]) as tape:
            model.predict(signal * latents + sigma * noise, t)
        found[t] = torch.einsum("ma,mnc->anc", weights, tape[site].float())
    return found


@torch.no_grad()
def mean_difference_test(
    model: DiffusionModel, site: str, noise: Tensor, differences: dict[int, Tensor],
    judge: Callable[[Tensor], Tensor], factors: Sequence[float] = (1, 2, 3), loop: Loop | None = None, count: int = 16,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:  # fmt: skip
    """Share of samples that take on each attribute when `factor` x its class difference is added: (attributes, factors).

    For each attribute the first `count` rows of `noise` (n, c, h, w) whose plain sample lacks it are sampled again
    with the shift. `judge` maps images to logits (B, attributes). NaN where every sample has the attribute.
    """
    loop = loop or Loop(steps=50, mode="plain")
    lacks = judge(model.decode(sample(model, noise, loop)).clamp(-1, 1)) <= 0
    flipped = torch.full((lacks.shape[1], len(factors)), float("nan"))
    for attribute in range(lacks.shape[1]):
        rows = noise[lacks[:, attribute]][:count]
        shifts = {t: each[attribute] for t, each in differences.items()}
        for column, factor in enumerate(factors if len(rows) else ()):
            edited = sample(model, rows, loop, interventions=[_Add(site, shifts, factor)])
            has = judge(model.decode(edited).clamp(-1, 1))[:, attribute] > 0
            flipped[attribute, column] = has.float().mean()
        if progress is not None:
            progress(attribute + 1, lacks.shape[1])
    return flipped
