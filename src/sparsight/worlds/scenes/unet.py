"""The scenes' U-Net: an ordinary `UNet2DConditionModel` on 16x16 latents whose 8x8 middle carries everything.

Text enters at 16x16 on the way down, at 8x8 in the middle and at 16x16 on the way up, as in Stable Diffusion. As
with the avatars, its skip connections are left out in training and exported as ordinary ones whose weights are zero.
"""

from __future__ import annotations

from typing import Any

from diffusers import DDIMScheduler, UNet2DConditionModel
from torch import Tensor, nn

from sparsight.worlds.scenes.autoencoder import CHANNELS
from sparsight.worlds.scenes.text import WIDTH as TEXT_WIDTH

GRID, WIDTHS, GROUPS = 16, (96, 192), 32


def build_scheduler() -> DDIMScheduler:
    """T = 1000, cosine schedule, v-prediction; steps spaced as in Stable Diffusion 1.x (981, 961, ... 1)."""
    return DDIMScheduler(
        num_train_timesteps=1000, beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction",
        clip_sample=False, set_alpha_to_one=False, timestep_spacing="leading", steps_offset=1,
    )  # fmt: skip


def build_unet() -> UNet2DConditionModel:
    """Two resolutions, one resnet each on the way down, two transformer layers in the middle."""
    return UNet2DConditionModel(
        sample_size=GRID, in_channels=CHANNELS, out_channels=CHANNELS, layers_per_block=1, block_out_channels=WIDTHS,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        transformer_layers_per_block=[1, 2], cross_attention_dim=TEXT_WIDTH, attention_head_dim=(3, 6),
        norm_num_groups=GROUPS,
    )  # fmt: skip


class _FirstGroups(nn.Module):
    """The groups of a group norm that hold no skip channel. Exact twin of the whole norm where the others weigh zero."""

    def __init__(self, channels: int, skipped: int, eps: float) -> None:
        super().__init__()
        size = (channels + skipped) // GROUPS
        self.used = channels // size * size
        self.norm = nn.GroupNorm(channels // size, self.used, eps=eps)

    def forward(self, hidden: Tensor) -> Tensor:
        """Maps (B, C, H, W) to the normed first channels (B, used, H, W)."""
        return self.norm(hidden[:, : self.used])


def _no_skips(_module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
    skips = kwargs["res_hidden_states_tuple"]
    return args, kwargs | {"res_hidden_states_tuple": tuple(skip[:, :0] for skip in skips)}


def without_skips(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    """Rebuild the up path in place so that it takes no skip channels: less to compute in training."""
    skipped = [(WIDTHS[1], WIDTHS[0]), (WIDTHS[0], WIDTHS[0])]
    for block, widths in zip(unet.up_blocks, skipped, strict=True):
        block.register_forward_pre_hook(_no_skips, with_kwargs=True)
        for resnet, skip in zip(block.resnets, widths, strict=True):
            channels, out = resnet.conv1.in_channels - skip, resnet.conv1.out_channels
            resnet.norm1 = _FirstGroups(channels, skip, resnet.norm1.eps)
            resnet.conv1 = nn.Conv2d(resnet.norm1.used, out, 3, padding=1)
            resnet.conv_shortcut = nn.Conv2d(channels, out, 1)
    return unet


def export_unet(trained: nn.Module) -> UNet2DConditionModel:
    """An ordinary U-Net equal to the skip-free `trained` one: what the twin does not have weighs zero."""
    unet = build_unet()
    target = unet.state_dict()
    for name, value in trained.state_dict().items():
        place = target[name.replace("norm1.norm.", "norm1.")]
        if place.shape != value.shape:
            place.zero_()
        place[tuple(slice(0, n) for n in value.shape)] = value
    unet.load_state_dict(target)
    return unet.eval()
