"""Is a site causal? Put one face's tokens into another face's sampling and see what follows.

Skip connections let a U-Net ignore its bottleneck. Before any steering, this says how much of the final
image a site decides inside a window: 1 if the whole image follows the swapped tokens, 0 if nothing does.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from sparsight.diffusion import DiffusionModel, Loop
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
    model: DiffusionModel, site: str, noise: Tensor, loop: Loop | None = None, window: Window | None = None
) -> Swap:
    """Sample each row of `noise` (n, c, h, w) with the tokens that the next row has at the same step, inside the window.

    Both runs are plain DDIM; raises `SparsightError` for an unknown site.
    """
    loop, put = loop or Loop(steps=50), _Put(site, window or Window())
    model.site(site)
    own = swapped = noise
    pairs = model.pairs(loop.steps)
    for index, (t, t_next) in enumerate(pairs):
        with model.capture([site]) as tape:
            prediction = model.predict(own, t, index=index, steps=len(pairs))
        put.tokens = tape[site].roll(-1, 0)
        with model.edit([put] if put.active(t) else []):
            changed = model.predict(swapped, t, index=index, steps=len(pairs))
        signal, sigma = model.schedule.levels(t_next, own)
        own, swapped = signal * prediction.x0 + sigma * prediction.eps, signal * changed.x0 + sigma * changed.eps
    images = model.decode(own).clamp(-1, 1)
    return Swap(images, images.roll(-1, 0), model.decode(swapped).clamp(-1, 1))


def attributes_followed(own: Tensor, donor: Tensor, swapped: Tensor) -> float:
    """Of the decisions (n, attributes, bool) in which A and B differ, the share where the swapped image agrees with B."""
    differ = own != donor
    return float((swapped == donor)[differ].float().mean())
