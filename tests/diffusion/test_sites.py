import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

from sparsight import DiffusionModel, Loop, SparsightError, sample
from sparsight.diffusion.sites import from_tokens, to_tokens
from tiny import tiny_pipeline


class Shift:
    """Adds `amount` to every token of a site inside a window."""

    def __init__(self, amount, site="mid_block", low=0, high=999):
        self.amount, self.site, self.low, self.high = amount, site, low, high
        self.seen = []

    def active(self, t):
        return self.low <= t <= self.high

    def __call__(self, tokens, step):
        self.seen.append(step)
        return tokens + self.amount


def _celebahq() -> UNet2DModel:
    """The published geometry of google/ddpm-celebahq-256 (its config.json), with random weights."""
    torch.manual_seed(0)
    return UNet2DModel(
        sample_size=256, in_channels=3, out_channels=3, block_out_channels=(128, 128, 256, 256, 512, 512),
        layers_per_block=2, attention_head_dim=None, downsample_padding=0, flip_sin_to_cos=False, freq_shift=1,
        norm_eps=1e-6, norm_num_groups=32, center_input_sample=False, mid_block_scale_factor=1, act_fn="silu",
        down_block_types=("DownBlock2D",) * 4 + ("AttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "AttnUpBlock2D") + ("UpBlock2D",) * 4,
    )  # fmt: skip


def test_tokens_round_trip():
    activation = torch.arange(2 * 3 * 4 * 5.0).reshape(2, 3, 4, 5)
    tokens, grid = to_tokens(activation)
    assert grid == (4, 5)
    assert torch.equal(tokens[1, 7], activation[1, :, 1, 2])  # position 7 of a 4x5 grid is row 1, column 2
    assert torch.equal(from_tokens(tokens, activation), activation)


@pytest.mark.parametrize("family", ["DDIMPipeline", "LDMPipeline", "DDPMPipeline"])
def test_every_site_is_captured_and_zero_edit_is_exact(family):
    model = DiffusionModel.from_pipeline(tiny_pipeline(family))
    x = torch.randn(2, *model.latent_shape)
    with torch.no_grad():
        plain = model.predict(x, 300)
        for site, info in model.sites().items():
            with model.capture([site]) as tape:
                model.predict(x, 300)
            assert tape[site].shape == (2, info.grid[0] * info.grid[1], info.channels)
            with model.edit([Shift(0.0, site)]) as record:
                edited = model.predict(x, 300)
            assert torch.equal(edited.eps, plain.eps)
            assert record.mean(site) == 0
            with model.edit([Shift(1.0, site)]):
                assert not torch.equal(model.predict(x, 300).eps, plain.eps)


def test_captured_tokens_are_the_modules_output(model):
    x = torch.randn(1, *model.latent_shape)
    outputs = []
    handle = model.denoiser.mid_block.register_forward_hook(lambda m, a, o: outputs.append(o))
    with torch.no_grad(), model.capture(["mid_block"]) as tape:
        model.predict(x, 10)
    handle.remove()
    assert torch.equal(tape["mid_block"][0, 5], outputs[0][0, :, 1, 1])


def test_update_is_output_minus_input(model):
    x = torch.randn(1, *model.latent_shape)
    seen = {}
    handle = model.denoiser.mid_block.register_forward_hook(lambda m, a, o: seen.update(i=a[0], o=o))
    with torch.no_grad(), model.capture(["mid_block:update"]) as tape:
        model.predict(x, 10)
    handle.remove()
    torch.testing.assert_close(tape["mid_block:update"], to_tokens(seen["o"] - seen["i"])[0])


def test_edits_of_update_and_output_by_the_same_shift_agree(model):
    x = torch.randn(1, *model.latent_shape)
    with torch.no_grad():
        with model.edit([Shift(0.3, "mid_block")]):
            output = model.predict(x, 10).eps
        with model.edit([Shift(0.3, "mid_block:update")]):
            update = model.predict(x, 10).eps
    torch.testing.assert_close(output, update)


def test_edits_compose_in_their_order(model):
    class Double(Shift):
        def __call__(self, tokens, step):
            return tokens * 2

    x = torch.randn(1, *model.latent_shape)
    with torch.no_grad():
        with model.capture(["mid_block"]) as tape:
            model.predict(x, 10)
        h = tape["mid_block"]
        with model.edit([Shift(1.0), Double(0)]), model.capture(["mid_block"]) as tape:
            model.predict(x, 10)
    torch.testing.assert_close(tape["mid_block"], (h + 1) * 2)


def test_window_and_step_reach_the_intervention(model):
    shift = Shift(0.1, low=500)
    sample(model, torch.randn(1, *model.latent_shape), Loop(steps=10), interventions=[shift])
    assert [s.t for s in shift.seen] == [900, 800, 700, 600, 500]
    assert [s.index for s in shift.seen] == [0, 1, 2, 3, 4]
    assert shift.seen[0].grid == (4, 4)


def test_asymmetric_step_moves_x0_and_keeps_the_noise(model):
    noise = torch.randn(1, *model.latent_shape)
    from sparsight.diffusion import walk

    shift = Shift(0.5)
    moment = next(walk(model, noise, Loop(steps=10), interventions=[shift]))
    with torch.no_grad():
        original = model.predict(noise, moment.t)
        with model.edit([shift]):
            edited = model.predict(noise, moment.t)
    signal, sigma = model.schedule.levels(moment.t_next, noise)
    torch.testing.assert_close(moment.x_next, signal * edited.x0 + sigma * original.eps)


def test_hooks_are_removed_after_an_error(model):
    def count():
        return sum(len(m._forward_hooks) for m in model.denoiser.modules())

    before = count()
    with pytest.raises(RuntimeError), model.edit([Shift(1.0)]), model.capture(["mid_block"]):
        raise RuntimeError
    assert count() == before


def _calls(model, run):
    """How many modules `run` calls."""
    called = []
    handles = [m.register_forward_hook(lambda *a: called.append(a[0])) for m in model.denoiser.modules()]
    run()
    for handle in handles:
        handle.remove()
    return len(called)


@pytest.mark.parametrize("sites", [["mid_block"], ["up_blocks.0", "down_blocks.0"], ["mid_block:update", "mid_block"]])
@torch.no_grad()
def test_reading_stops_after_the_last_site_with_the_same_tokens(model, sites):
    x, t = torch.randn(2, *model.latent_shape), torch.tensor([500, 900])
    with model.capture(sites) as tape:
        whole = _calls(model, lambda: model.predict(x, t))
    found = []
    stopped = _calls(model, lambda: found.append(model.read(x, t, sites)))
    for site in sites:
        assert torch.equal(found[0][site], tape[site]) and found[0].grids[site] == tape.grids[site]
    rest = [m for name, m in model.denoiser.named_modules() if name.startswith("up_blocks.1")]  # after every site here
    assert stopped <= whole - len(rest)


@torch.no_grad()
def test_reading_sees_an_edit_and_leaves_no_hook(model):
    x = torch.randn(1, *model.latent_shape)
    plain = model.read(x, 10, ["mid_block"])["mid_block"]
    with model.edit([Shift(1.0)]):
        torch.testing.assert_close(model.read(x, 10, ["mid_block"])["mid_block"], plain + 1)
    with pytest.raises(RuntimeError):
        model.read(torch.randn(1, 7, 8, 8), 10, ["mid_block"])  # an error inside the model is not swallowed
    assert not any(m._forward_hooks for m in model.denoiser.modules())


def test_gradients_flow_from_the_image_to_the_edit(model):
    amount = torch.zeros(64, requires_grad=True)
    with model.edit([Shift(amount)]):
        model.predict(torch.randn(1, *model.latent_shape), 10).x0.sum().backward()
    assert amount.grad is not None and amount.grad.abs().sum() > 0


def test_unknown_site_names_the_nearest(model):
    with pytest.raises(SparsightError, match="did you mean 'mid_block'"), model.capture(["mid_blok"]):
        pass
    with pytest.raises(SparsightError, match="unknown site mode"):
        model.site("mid_block:inside")


def test_celebahq_geometry():
    """The published bottleneck is 512 x 8 x 8, and a zero edit there changes nothing.

    To fp32 rounding: networks of this size round differently with where the allocator puts their buffers, even
    when nothing is hooked. Exact equality is asserted on the small models above.
    """
    model = DiffusionModel.from_pipeline(DDPMPipeline(_celebahq(), DDPMScheduler()))
    x = torch.randn(1, 3, 256, 256)
    with torch.no_grad():
        with model.capture(["mid_block"]) as tape:
            plain = model.predict(x, 700).eps
        assert tape["mid_block"].shape == (1, 64, 512) and tape.grids["mid_block"] == (8, 8)
        with model.edit([Shift(0.0)]):
            torch.testing.assert_close(model.predict(x, 700).eps, plain, atol=1e-4, rtol=1e-4)
