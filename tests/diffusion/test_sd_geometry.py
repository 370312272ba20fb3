"""The geometry of Stable Diffusion v1.4, from its published config: without weights, and once with random ones."""

import pytest
import torch
from diffusers import PNDMScheduler, UNet2DConditionModel

from sparsight import SparsightError
from sparsight.diffusion import Conditioning, TextToImage

PAPER = {"down_blocks.2.attentions.1": 16, "mid_block.attentions.0": 8, "up_blocks.1.attentions.0": 16}


def sd14(size: int, **options) -> UNet2DConditionModel:
    """CompVis/stable-diffusion-v1-4, unet/config.json, for latents of another size."""
    told = {"cross_attention_dim": 768, "attention_head_dim": 8} | options
    return UNet2DConditionModel(
        sample_size=size, in_channels=4, out_channels=4, center_input_sample=False, flip_sin_to_cos=True, freq_shift=0,
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3, block_out_channels=(320, 640, 1280, 1280),
        layers_per_block=2, downsample_padding=1, mid_block_scale_factor=1, act_fn="silu", norm_num_groups=32,
        norm_eps=1e-5, **told,
    )  # fmt: skip


def model_of(size: int, **options) -> TextToImage:
    with torch.device("meta"):
        unet = sd14(size, **options)
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


def test_stable_diffusion_2_has_the_same_modules():
    """stabilityai/stable-diffusion-2-1, unet/config.json: 768 pixels, OpenCLIP's 1024 channels, linear projections."""
    heads = {"attention_head_dim": [5, 10, 20, 20], "use_linear_projection": True}
    model = model_of(96, cross_attention_dim=1024, **heads)
    for site, side in PAPER.items():
        assert model.site(site).grid == (side * 3 // 2, side * 3 // 2) and model.site(site).channels == 1280


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


def random_weights(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    """Weights in bf16, 1.7 GB: one short random vector over and over, norms at their start."""
    unet = unet.to(torch.bfloat16).to_empty(device="cpu")
    short = torch.randn(1 << 20, generator=torch.Generator().manual_seed(0)).mul_(0.02).bfloat16()
    with torch.no_grad():
        for name, weight in unet.named_parameters():
            if weight.ndim == 1:
                weight.fill_(float("norm" in name and name.endswith("weight")))
                continue
            for part in weight.view(-1).split(len(short)):
                part.copy_(short[: len(part)])
    return unet


@torch.no_grad()
def test_a_real_pass_reads_and_edits_the_papers_modules():
    """860 million weights at 16x16 latents: zero edits of all three updates are exact, an edit of one half moves that half."""
    meta = model_of(16)
    model = TextToImage(random_weights(meta.denoiser), meta.scheduler, name="sd14")
    sites = [f"{site}:update" for site in PAPER]
    text = torch.randn(2, 1, 77, 768, generator=torch.Generator().manual_seed(1))
    told = Conditioning(("a",), text[0], text[1], 7.5)
    x = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(2))
    with model.capture(sites) as tape:
        plain = model.predict(x, 981, told).eps
        before = {site: tape[site] for site in sites}
        with model.edit([add_to(site, 0.0) for site in sites]) as record:
            assert torch.equal(model.predict(x, 981, told).eps, plain)
        assert all(record.mean(site) == 0 and len(record.strengths[site]) == 1 for site in sites)
        with model.edit([add_to(sites[1], 1.0)]) as record:
            assert not torch.equal(model.predict(x, 981, told).eps, plain)
    assert all(before[f"{site}:update"].shape == (2, (side // 4) ** 2, 1280) for site, side in PAPER.items())
    assert torch.equal(tape.half(sites[2], "uncond"), before[sites[2]][:1]) and record.mean(sites[1], "cond") > 0
    assert not torch.equal(tape.half(sites[2], "cond"), before[sites[2]][1:])


def add_to(site: str, size: float):
    """Adds `size` in fp32 to the rows of the prompt; 0 goes all the way through the sum."""

    class Add:
        def active(self, t):
            return True

        def __call__(self, tokens, step):
            changed = tokens.float().clone()
            changed[step.rows("cond")] += size
            return changed

    add = Add()
    add.site = site
    return add
