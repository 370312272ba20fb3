"""The scenes' autoencoder: an ordinary `AutoencoderKL`, 64x64 pixels to 16x16x8 latents of unit variance."""

from __future__ import annotations

from pathlib import Path

from diffusers import AutoencoderKL

from sparsight.worlds.autoencoder import AutoencoderConfig, train
from sparsight.worlds.scenes.data import SceneData
from sparsight.worlds.training import Progress

WIDTHS, CHANNELS = (32, 48, 96), 8


def build_autoencoder() -> AutoencoderKL:
    """Three resolutions, one resnet each, no attention: 1.5 M parameters."""
    return AutoencoderKL(
        block_out_channels=WIDTHS, down_block_types=("DownEncoderBlock2D",) * 3, scaling_factor=1.0,
        up_block_types=("UpDecoderBlock2D",) * 3, latent_channels=CHANNELS, layers_per_block=1,
        norm_num_groups=8, mid_block_add_attention=False, sample_size=64,
    )  # fmt: skip


def train_autoencoder(
    data: SceneData, folder: Path, config: AutoencoderConfig, progress: Progress | None = None
) -> AutoencoderKL:
    """Train on rendered scenes; resumes from `folder`. Returns the EMA model with standardised latents."""
    return train(build_autoencoder, data, folder, config, progress)
