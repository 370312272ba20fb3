"""Prompts to images in one call, by the one loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from sparsight.diffusion.model import DiffusionModel
from sparsight.diffusion.sampling import Loop, Moment, walk
from sparsight.diffusion.sites import Intervention


@torch.no_grad()
def generate(
    model: DiffusionModel, prompts: str | Sequence[str], *, seed: int = 0, noise: Tensor | None = None, steps: int = 50,
    guidance: float = 7.5, negative: str | Sequence[str] = "", interventions: Sequence[Intervention] = (),
    progress: Callable[[Moment], None] | None = None,
) -> Tensor:  # fmt: skip
    """Images (B, 3, H, W) in [-1, 1], fp32, of `prompts`, by plain DDIM of `steps` steps.

    `noise` (B, c, h, w) is drawn from `seed` as diffusers draws it on a CPU, unless given. `guidance` and `negative` are
    those of `encode_prompts`. `progress` is called with every step's `Moment`. Raises `SparsightError` for a model
    without prompts, and as `encode_prompts` does.
    """
    told = model.encode_prompts(prompts, negative=negative, guidance=guidance)
    if noise is None:
        noise = torch.randn(len(told), *model.latent_shape, generator=torch.Generator().manual_seed(seed))
    x = noise.to(model.device)
    for moment in walk(model, x, Loop(steps, mode="plain"), conditioning=told, interventions=interventions):
        x = moment.x_next
        if progress is not None:
            progress(moment)
    return model.decode(x).float().clamp(-1, 1)
