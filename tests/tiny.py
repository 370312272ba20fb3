"""Tiny models that every room's tests share: real diffusers pipelines with random weights."""

import torch
from diffusers import AutoencoderKL, DDIMPipeline, DDIMScheduler, DDPMPipeline, DDPMScheduler, LDMPipeline, UNet2DModel


def tiny_unet(size: int = 8, channels: int = 3, seed: int = 0, out: int | None = None) -> UNet2DModel:
    torch.manual_seed(seed)
    return UNet2DModel(
        sample_size=size, in_channels=channels, out_channels=out or channels, layers_per_block=1,
        block_out_channels=(32, 64), down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"), norm_num_groups=8, attention_head_dim=8,
    ).eval()  # fmt: skip


def tiny_pipeline(family: str = "DDIMPipeline", **scheduler):
    options = {"num_train_timesteps": 1000, **scheduler}
    if family == "DDPMPipeline":
        return DDPMPipeline(tiny_unet(), DDPMScheduler(**options))
    if family == "DDIMPipeline":
        return DDIMPipeline(tiny_unet(), DDIMScheduler(**options))
    torch.manual_seed(1)
    autoencoder = AutoencoderKL(
        block_out_channels=(8, 16), down_block_types=("DownEncoderBlock2D",) * 2, scaling_factor=0.7,
        up_block_types=("UpDecoderBlock2D",) * 2, latent_channels=4, norm_num_groups=4, sample_size=16,
    ).eval()  # fmt: skip
    return LDMPipeline(autoencoder, tiny_unet(channels=4), DDIMScheduler(**options))
