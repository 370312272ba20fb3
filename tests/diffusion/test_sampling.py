import numpy as np
import pytest
import torch
from diffusers import DDIMPipeline, DDIMScheduler, FlowMatchEulerDiscreteScheduler

from sparsight import DiffusionModel, Loop, SparsightError, invert, sample
from sparsight.diffusion import walk
from tiny import tiny_pipeline, tiny_unet


def _pixels(model: DiffusionModel, latents: torch.Tensor) -> np.ndarray:
    return (model.decode(latents) / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize("family", ["DDIMPipeline", "LDMPipeline"])
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_no_intervention_is_the_pipelines_own_image(family, kind, spacing):
    pipeline = tiny_pipeline(family, prediction_type=kind, timestep_spacing=spacing)
    pipeline.set_progress_bar_config(disable=True)
    model = DiffusionModel.from_pipeline(pipeline)
    theirs = pipeline(batch_size=2, generator=torch.Generator().manual_seed(3), num_inference_steps=7, output_type="np")
    noise = torch.randn(2, *model.latent_shape, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        ours = _pixels(model, sample(model, noise, Loop(steps=7, clip=True)))
    np.testing.assert_allclose(ours, theirs.images, atol=1e-4)


def test_eta_one_is_ddpms_own_image():
    pipeline = tiny_pipeline("DDPMPipeline")
    pipeline.set_progress_bar_config(disable=True)
    model = DiffusionModel.from_pipeline(pipeline)
    theirs = pipeline(
        batch_size=2, generator=torch.Generator().manual_seed(3), num_inference_steps=20, output_type="np"
    )
    generator = torch.Generator().manual_seed(3)
    noise = torch.randn(2, *model.latent_shape, generator=generator)
    ours = _pixels(model, sample(model, noise, Loop(steps=20, eta=1.0, clip=True), generator=generator))
    np.testing.assert_allclose(ours, theirs.images, atol=1e-4)


def test_ddim_with_noise_is_the_pipelines_own_image():
    pipeline = tiny_pipeline("DDIMPipeline")
    pipeline.set_progress_bar_config(disable=True)
    model = DiffusionModel.from_pipeline(pipeline)
    theirs = pipeline(
        batch_size=1, generator=torch.Generator().manual_seed(5), num_inference_steps=9, eta=0.6, output_type="np"
    )
    generator = torch.Generator().manual_seed(5)
    noise = torch.randn(1, *model.latent_shape, generator=generator)
    ours = _pixels(model, sample(model, noise, Loop(steps=9, eta=0.6, clip=True), generator=generator))
    np.testing.assert_allclose(ours, theirs.images, atol=1e-4)


def test_flow_steps_agree_with_diffusers_euler():
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    unet = tiny_unet()
    model = DiffusionModel(unet, scheduler, name="flow")
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    moment = next(walk(model, x, Loop(steps=5)))
    scheduler.set_timesteps(5)
    with torch.no_grad():
        output = unet(x, torch.full((2,), moment.t)).sample
    theirs = scheduler.step(output, scheduler.timesteps[0], x).prev_sample
    torch.testing.assert_close(moment.x_next, theirs, atol=5e-3, rtol=0)  # they take fractional timesteps


def test_inversion_then_sampling_returns_the_image():
    model = DiffusionModel.from_pipeline(tiny_pipeline(prediction_type="v_prediction"))
    image = torch.rand(2, *model.latent_shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    plain = (sample(model, invert(model, image, Loop(steps=100)), Loop(steps=100)) - image).abs().mean()
    fixed = (sample(model, invert(model, image, Loop(steps=100, refine=3)), Loop(steps=100)) - image).abs().mean()
    assert plain < 0.05
    assert fixed < plain / 5


def test_one_more_step_count_than_the_schedule_has_is_refused(model):
    with pytest.raises(SparsightError, match="1 to 1000"):
        sample(model, torch.zeros(1, *model.latent_shape), Loop(steps=1001))


def test_learned_variance_channels_are_dropped():
    double = tiny_unet(out=6)
    model = DiffusionModel.from_pipeline(DDIMPipeline(double, DDIMScheduler()))
    x = torch.randn(1, 3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(model.predict(x, 500).eps, double(x, 500).sample[:, :3])


@pytest.mark.parametrize("bad", [{"mode": "sideways"}, {"eta": 1.5}])
def test_a_bad_loop_is_refused(bad):
    with pytest.raises(SparsightError):
        Loop(**bad)
