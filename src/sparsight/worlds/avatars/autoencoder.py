"""The avatars' autoencoder: an ordinary `AutoencoderKL`, 64x64 pixels to 8x8x16 latents of unit variance."""

from __future__ import annotations

from pathlib import Path

from diffusers import AutoencoderKL

from sparsight.worlds.autoencoder import AutoencoderConfig, encode_all, standardise, train
from sparsight.worlds.avatars.data import FaceData
from sparsight.worlds.training import Progress

__all__ = ["AutoencoderConfig", "build_autoencoder", "encode_all", "standardise", "train_autoencoder"]
WIDTHS, CHANNELS = (16, 32, 64, 128), 16


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
    return train(build_autoencoder, data, folder, config, progress)
