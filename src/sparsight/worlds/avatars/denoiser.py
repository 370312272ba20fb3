"""The avatars' denoiser: an ordinary `UNet2DModel` on 8x8 latents whose bottleneck carries everything.

A small U-Net trained the plain way sends every detail through its skip connections, and an edit of its
bottleneck changes nothing that one can see (docs/worlds.md has the measurement). So this one is trained
without them and then exported as an ordinary U-Net whose skip weights are zero: the same function,
loaded by diffusers with no code of ours.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import DDIMScheduler, UNet2DModel
from torch import Tensor, nn

from sparsight.worlds.training import Progress, Training

CHANNELS, GRID, WIDTH, GROUPS = 16, 8, 256, 32


def build_scheduler() -> DDIMScheduler:
    """T = 1000, cosine schedule, v-prediction: at t = 500 signal and noise weigh the same."""
    return DDIMScheduler(
        num_train_timesteps=1000, beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction",
        clip_sample=False, set_alpha_to_one=True, timestep_spacing="leading", steps_offset=0,
    )  # fmt: skip


def build_unet() -> UNet2DModel:
    """One resolution, 8x8, width 256: conv_in, a down resnet, mid (resnet, attention, resnet), two up resnets."""
    return UNet2DModel(
        sample_size=GRID, in_channels=CHANNELS, out_channels=CHANNELS, layers_per_block=1,
        block_out_channels=(WIDTH,), down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",),
        attention_head_dim=64, norm_num_groups=GROUPS,
    )  # fmt: skip


def _no_skips(_module: nn.Module, args: tuple) -> tuple:
    hidden, skips, *rest = args
    return hidden, tuple(skip[:, :0] for skip in skips), *rest


def without_skips(unet: UNet2DModel) -> UNet2DModel:
    """Rebuild the up path in place so that it takes no skip channels: a third less to compute in training.

    Exact twin of the exported model: 16 of the 32 groups of each first norm hold the skip channels alone.
    """
    for block in unet.up_blocks:
        block.register_forward_pre_hook(_no_skips)
        for resnet in block.resnets:
            resnet.norm1 = nn.GroupNorm(GROUPS // 2, WIDTH, eps=resnet.norm1.eps)
            resnet.conv1 = nn.Conv2d(WIDTH, WIDTH, 3, padding=1)
            resnet.conv_shortcut = nn.Conv2d(WIDTH, WIDTH, 1)
    return unet


def export_unet(trained: nn.Module) -> UNet2DModel:
    """An ordinary U-Net equal to the skip-free `trained` one: skip channels are normed and weighed by zero."""
    unet, source = build_unet(), trained.state_dict()
    target = unet.state_dict()
    for name, value in source.items():
        if target[name].shape == value.shape:
            target[name] = value
        else:
            target[name] = torch.zeros_like(target[name])
            target[name][tuple(slice(0, n) for n in value.shape)] = value
    unet.load_state_dict(target)
    return unet.eval()


@dataclass(frozen=True)
class DenoiserConfig:
    """How the denoiser is trained. The shipped weights took these steps in two phases (docs/worlds.md)."""

    steps: int = 16_600
    batch_size: int = 32
    learning_rate: float = 5e-4
    warmup: int = 200
    ema: float = 0.9995
    seed: int = 0


def train_denoiser(
    latents: Tensor, folder: Path, config: DenoiserConfig, progress: Progress | None = None
) -> UNet2DModel:
    """Train on `latents` (n, 16, 8, 8) of unit variance; resumes from `folder`. Returns the EMA model, exported."""
    torch.manual_seed(config.seed)
    unet = without_skips(build_unet()).to(memory_format=torch.channels_last)
    alphas = build_scheduler().alphas_cumprod
    training = Training(unet, folder, steps=config.steps, learning_rate=config.learning_rate, warmup=config.warmup,
                        ema=config.ema, seed=config.seed)  # fmt: skip
    training.run(_loss(unet, latents, alphas, config.batch_size), progress)
    return export_unet(copy.deepcopy(training.averaged))


def _loss(unet: nn.Module, latents: Tensor, alphas: Tensor, batch_size: int) -> Callable[[torch.Generator], Tensor]:
    def loss(generator: torch.Generator) -> Tensor:
        x0 = latents[torch.randint(len(latents), (batch_size,), generator=generator)]
        t = torch.randint(len(alphas), (batch_size,), generator=generator)
        noise = torch.randn(x0.shape, generator=generator)
        signal, sigma = alphas[t].sqrt().view(-1, 1, 1, 1), (1 - alphas[t]).sqrt().view(-1, 1, 1, 1)
        x_t = (signal * x0 + sigma * noise).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            predicted = unet(x_t, t).sample
        return (predicted.float() - (signal * noise - sigma * x0)).square().mean()

    return loss
