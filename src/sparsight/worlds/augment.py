"""Small changes that must not sway a judge: shifts, blur, light and colour, noise, and steps chosen to fool it."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

_GROUPS = 8  # images of a batch that are shifted and blurred alike: far fewer small operations


def _uniform(generator: torch.Generator, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
    return torch.rand(*shape, generator=generator) * (high - low) + low


def _shift(images: Tensor, generator: torch.Generator, most: int) -> Tensor:
    down, right = torch.randint(0, 2 * most + 1, (2,), generator=generator).tolist()
    height, width = images.shape[-2:]
    padded = F.pad(images, (most,) * 4, mode="replicate")
    return padded[..., down : down + height, right : right + width]


def _blur(images: Tensor, generator: torch.Generator) -> Tensor:
    strength = torch.rand((), generator=generator)
    if strength < 0.5:
        return images
    soft = F.avg_pool2d(F.pad(images, (1,) * 4, mode="replicate"), 3, stride=1)
    return images.lerp(soft, 2 * float(strength) - 1)


def augment(images: Tensor, generator: torch.Generator, shift: int = 2) -> Tensor:
    """Images (B, 3, H, W) in [-1, 1] with mild, label-keeping changes; the same generator gives the same ones.

    `shift` is the most pixels that anything moves; 0 where labels belong to pixels.
    """
    parts = [_blur(_shift(part, generator, shift), generator) for part in images.chunk(_GROUPS)]
    images = torch.cat(parts)
    count = len(images)
    gain = _uniform(generator, count, 3, 1, 1, low=-0.04, high=0.04)
    gain = 1 + gain + _uniform(generator, count, 1, 1, 1, low=-0.06, high=0.06)
    bias = _uniform(generator, count, 3, 1, 1, low=-0.03, high=0.03)
    # Half of the images stay free of noise: those are what a judge sees most.
    sigma = _uniform(generator, count, 1, 1, 1, low=-0.08, high=0.08).clamp_min(0)
    noise = torch.randn(images.shape, generator=generator) * sigma
    return (images * gain + bias + noise).clamp(-1, 1).contiguous(memory_format=torch.channels_last)


def adversarial(images: Tensor, loss_of: Callable[[Tensor], Tensor], generator: torch.Generator) -> Tensor:
    """Images one sign-gradient step of 1/255 to 4/255 of the full range uphill on `loss_of`."""
    probe = images.detach().clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(loss_of(probe), probe)
    step = _uniform(generator, len(images), 1, 1, 1, low=2 / 255, high=8 / 255)  # the range [-1, 1] is 2 wide
    return (images + step * gradient.sign()).clamp(-1, 1).detach()
