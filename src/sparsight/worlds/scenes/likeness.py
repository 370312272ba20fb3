"""Likenesses of scenes as the world's own models draw them, so that its annotators know that look too."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from sparsight.worlds.judging import fast
from sparsight.worlds.scenes.captions import caption
from sparsight.worlds.scenes.scene import Scene
from sparsight.worlds.scenes.text import build_tokenizer, encode_words

Redraw = Callable[[Tensor], Tensor]  # images (B, 3, 64, 64) in [-1, 1] to the same


def round_trip(autoencoder: Any, noise: float = 0.05, seed: int = 0) -> Redraw:
    """Redraw by encoding and decoding, the latents blurred by a little noise."""
    generator = torch.Generator().manual_seed(seed)

    def redraw(images: Tensor) -> Tensor:
        with fast():
            latents = autoencoder.encode(images).latent_dist.mean
            return autoencoder.decode(latents + noise * torch.randn(latents.shape, generator=generator)).sample.float()

    return redraw


def one_step(
    autoencoder: Any, unet: Any, text: Any, scheduler: Any, scenes: Sequence[Scene],
    times: tuple[int, int] = (50, 450), seed: int = 0,
) -> Redraw:  # fmt: skip
    """Redraw by adding the noise of a random time and denoising once, given the scene's caption.

    Must be called on the pictures of `scenes` in order. Up to about t = 450 things stay what and where they are.
    """
    generator, tokenizer, rng = torch.Generator().manual_seed(seed), build_tokenizer(), random.Random(seed)
    left = iter(scenes)

    def redraw(images: Tensor) -> Tensor:
        tokens = encode_words(tokenizer, [caption(next(left), rng, left_out=0.0) for _ in images])
        with fast():
            clean = autoencoder.encode(images).latent_dist.mean.float()
            t = torch.randint(*times, (len(images),), generator=generator)
            noisy = scheduler.add_noise(clean, torch.randn(clean.shape, generator=generator), t)
            signal = scheduler.alphas_cumprod[t].view(-1, 1, 1, 1)
            states = text(input_ids=tokens).last_hidden_state
            v = unet(noisy, t, encoder_hidden_states=states).sample.float()
            return autoencoder.decode(signal.sqrt() * noisy - (1 - signal).sqrt() * v).sample.float()

    return redraw
