"""The avatars' autoencoder: an ordinary `AutoencoderKL`, 64x64 pixels to 8x8x16 latents of unit variance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from sparsight.worlds.avatars.data import FaceData
from sparsight.worlds.training import Progress, Training

WIDTHS, CHANNELS = (16, 32, 64, 128), 16


@dataclass(frozen=True)
class AutoencoderConfig:
    """How the autoencoder is trained."""

    steps: int = 4000
    batch_size: int = 16
    learning_rate: float = 2e-3
    latent_noise: float = 0.05
    seed: int = 0


def build_autoencoder() -> AutoencoderKL:
    """Four resolutions, one resnet each, no attention: 2.6 M parameters, most of them at 8x8."""
    return AutoencoderKL(
        block_out_channels=WIDTHS, down_block_types=("DownEncoderBlock2D",) * 4, scaling_factor=1.0,
        up_block_types=("UpDecoderBlock2D",) * 4, latent_channels=CHANNELS, layers_per_block=1,
        norm_num_groups=8, mid_block_add_attention=False, sample_size=64,
    )  # fmt: skip


def train_autoencoder(
    data: FaceData, folder: Path, config: AutoencoderConfig, progress: Progress | None = None
) -> AutoencoderKL:
    """Train on rendered faces; resumes from `folder`. Returns the EMA model with standardised latents."""
    torch.manual_seed(config.seed)
    model = build_autoencoder().to(memory_format=torch.channels_last)
    training = Training(model, folder, steps=config.steps, learning_rate=config.learning_rate, seed=config.seed)
    training.run(_loss(model, data, config), progress)
    averaged = training.averaged
    assert isinstance(averaged, AutoencoderKL)
    return standardise(averaged.eval(), data.images(slice(0, 2048)))


def _loss(model: AutoencoderKL, data: FaceData, config: AutoencoderConfig) -> Callable[[torch.Generator], Tensor]:
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
    into, out = model.quant_conv, model.post_quant_conv
    into.weight[:CHANNELS] /= std.view(-1, 1, 1, 1)
    into.bias[:CHANNELS] = (into.bias[:CHANNELS] - mean) / std
    out.bias += out.weight[:, :, 0, 0] @ mean
    out.weight *= std.view(1, -1, 1, 1)
    return model


@torch.no_grad()
def encode_all(model: AutoencoderKL, data: FaceData) -> Tensor:
    """Latents (n, 16, 8, 8) of every face."""
    return torch.cat([model.encode(data.images(slice(i, i + 64))).latent_dist.mean for i in range(0, len(data), 64)])
