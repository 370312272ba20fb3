"""The geometry of Stable Diffusion v1.4, from its published config, with no weights at all."""

import pytest
import torch
from diffusers import PNDMScheduler, UNet2DConditionModel

from sparsight import SparsightError
from sparsight.diffusion import Conditioning, TextToImage

PAPER = {"down_blocks.2.attentions.1": 16, "mid_block.attentions.0": 8, "up_blocks.1.attentions.0": 16}


def sd14(size: int) -> UNet2DConditionModel:
    """CompVis/stable-diffusion-v1-4, unet/config.json, for latents of another size."""
    return UNet2DConditionModel(
        sample_size=size, in_channels=4, out_channels=4, center_input_sample=False, flip_sin_to_cos=True, freq_shift=0,
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3, block_out_channels=(320, 640, 1280, 1280),
        layers_per_block=2, downsample_padding=1, mid_block_scale_factor=1, act_fn="silu", norm_num_groups=32,
        norm_eps=1e-5, cross_attention_dim=768, attention_head_dim=8,
    )  # fmt: skip


def model_of(size: int) -> TextToImage:
    with torch.device("meta"):
        unet = sd14(size)
    scheduler = PNDMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1, skip_prk_steps=True
    )
    return TextToImage(unet, scheduler, name="sd14")


@pytest.fixture(scope="module")
def model():
    return model_of(64)


@pytest.mark.parametrize("site", PAPER)
def test_the_papers_three_modules_have_its_sizes_at_512_pixels(model, site):
    info = model.site(f"{site}:update")
    assert info.channels == 1280 and info.grid == (PAPER[site], PAPER[site])
    assert info.cross_attention and info.has_update


@pytest.mark.parametrize("mode", ["output", "update"])
def test_a_pass_with_guidance_is_captured_at_the_papers_sites(mode):
    small = model_of(16)
    with torch.device("meta"):
        told = torch.zeros(1, 77, 768)
    states = torch.zeros(3, 4, 16, 16, device="meta")
    tape = small.read(states, 981, [f"{site}:{mode}" for site in PAPER], Conditioning(("a",), told, told, 7.5))
    for site, side in PAPER.items():
        assert tape[f"{site}:{mode}"].shape == (6, (side // 4) ** 2, 1280)


def test_sixteen_blocks_hear_the_prompt(model):
    """SD 1.x has 6 cross-attention blocks on the way down, 1 in the middle and 9 on the way up."""
    heard = [name for name, info in model.sites().items() if info.cross_attention]
    assert [sum(name.startswith(part) for name in heard) for part in ("down", "mid", "up")] == [6, 1, 9]
    assert model.site("up_blocks.1").has_update is False  # skip connections come in between


def test_the_steps_of_the_paper_are_those_of_the_notes(model):
    stamps = [t for t, _ in model.pairs(50)]
    assert (stamps[0], stamps[24], stamps[25], stamps[49]) == (981, 501, 481, 1)


def test_a_mistyped_module_names_the_nearest(model):
    with pytest.raises(SparsightError, match=r"did you mean 'mid_block.attentions.0'"):
        model.site("mid_block.attention.0")
