"""Training of the worlds' autoencoders: the loss, latents of unit variance, and encoding a whole set."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from sparsight.worlds.training import Progress, Training


class Images(Protocol):
    """A set of images in memory."""

    def __len__(self) -> int:
        """How many there are."""
        ...

    def images(self, chosen: Tensor | slice = ...) -> Tensor:
        """The chosen ones, float (B, 3, H, W) in [-1, 1]."""
        ...


@dataclass(frozen=True)
class AutoencoderConfig:
    """How an autoencoder is trained."""

    steps: int = 4000
    batch_size: int = 16
    learning_rate: float = 2e-3
    latent_noise: float = 0.05
    seed: int = 0


def train(
    build: Callable[[], AutoencoderKL], data: Images, folder: Path, config: AutoencoderConfig,
    progress: Progress | None = None,
) -> AutoencoderKL:  # fmt: skip
    """Train what `build` makes on `data`; resumes from `folder`. Returns the EMA model with standardised latents."""
    torch.manual_seed(config.seed)
    model = build().to(memory_format=torch.channels_last)
    training = Training(model, folder, steps=config.steps, learning_rate=config.learning_rate, seed=config.seed)
    training.run(_loss(model, data, config), progress)
    averaged = training.averaged
    assert isinstance(averaged, AutoencoderKL)
    return standardise(averaged.eval(), data.images(slice(0, 2048)))


def _loss(model: AutoencoderKL, data: Images, config: AutoencoderConfig) -> Callable[[torch.Generator], Tensor]:
    """L1 + 2 L2 + half an L1 of the gradients (sharp edges), and a pull of the latents to unit size."""

    def loss(generator: torch.Generator) -> Tensor:
        x = data.images(torch.randint(len(data), (config.batch_size,), generator=generator))
        x = x.contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            z = model.encode(x).latent_dist.mean
            redrawn = model.decode(z + config.latent_noise * torch.randn(z.shape, generator=generator)).sample
        error, z = redrawn.float() - x, z.float()
        edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
        size = z.square().mean() + (z.var((0, 2, 3)).clamp_min(1e-4) - 1).square().mean()
        return error.abs().mean() + 2 * error.square().mean() + 0.5 * edges + 1e-4 * size

    return loss


@torch.no_grad()
def standardise(model: AutoencoderKL, images: Tensor) -> AutoencoderKL:
    """Fold each latent channel's mean and deviation into the two 1x1 convolutions, so that latents need no scaling."""
    z = torch.cat([model.encode(batch).latent_dist.mean for batch in images.split(64)])
    mean, std = z.mean((0, 2, 3)), z.std((0, 2, 3))
    into, out, channels = model.quant_conv, model.post_quant_conv, len(mean)
    into.weight[:channels] /= std.view(-1, 1, 1, 1)
    into.bias[:channels] = (into.bias[:channels] - mean) / std
    out.bias += out.weight[:, :, 0, 0] @ mean
    out.weight *= std.view(1, -1, 1, 1)
    return model


@torch.no_grad()
def encode_all(model: AutoencoderKL, data: Images) -> Tensor:
    """Latents (n, c, h, w) of every image."""
    return torch.cat([model.encode(data.images(slice(i, i + 64))).latent_dist.mean for i in range(0, len(data), 64)])
