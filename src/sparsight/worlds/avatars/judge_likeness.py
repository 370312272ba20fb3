"""Likenesses of faces as the world's own models draw them, so that its judges know that look too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sparsight.errors import SparsightError

Redraw = Callable[[Tensor], Tensor]  # images (B, 3, H, W) in [-1, 1] to the same


def round_trip(autoencoder: Any, noise: float = 0.05, seed: int = 0) -> Redraw:
    """Redraw by encoding and decoding with a diffusers `AutoencoderKL`, its latents blurred by a little noise."""
    generator = torch.Generator().manual_seed(seed)

    def redraw(images: Tensor) -> Tensor:
        latents = autoencoder.encode(images).latent_dist.mean
        return autoencoder.decode(latents + noise * torch.randn(latents.shape, generator=generator)).sample

    return redraw


def one_step(
    autoencoder: Any, denoiser: Any, scheduler: Any, times: tuple[int, int] = (50, 300), seed: int = 0
) -> Redraw:
    """Redraw by adding the noise of a random time and denoising once, decoded through the autoencoder.

    Up to about t = 300 the picture keeps what it shows, and so its labels; later, mouths begin to change.
    """
    if scheduler.config.prediction_type != "v_prediction":
        raise SparsightError(f"one_step reads v-prediction, not {scheduler.config.prediction_type}")
    generator, factor = torch.Generator().manual_seed(seed), autoencoder.config.scaling_factor

    def redraw(images: Tensor) -> Tensor:
        clean = autoencoder.encode(images).latent_dist.mean * factor
        t = torch.randint(*times, (len(images),), generator=generator)
        noisy = scheduler.add_noise(clean, torch.randn(clean.shape, generator=generator), t)
        signal = scheduler.alphas_cumprod[t].view(-1, 1, 1, 1)
        found = signal.sqrt() * noisy - (1 - signal).sqrt() * denoiser(noisy, t).sample
        return autoencoder.decode(found / factor).sample

    return redraw
