import pytest
import torch
from diffusers import DDPMScheduler

from sparsight import DiffusionModel, SparsightError
from sparsight.diffusion import Schedule
from tiny import tiny_pipeline


@pytest.mark.parametrize("family", ["DDIMPipeline", "LDMPipeline", "DDPMPipeline"])
def test_a_saved_folder_loads_and_predicts_the_same(family, tmp_path):
    pipeline = tiny_pipeline(family)
    pipeline.save_pretrained(tmp_path / "pipe")
    model, loaded = DiffusionModel.from_pipeline(pipeline), DiffusionModel.load(tmp_path / "pipe")
    x = torch.randn(1, *model.latent_shape)
    with torch.no_grad():
        torch.testing.assert_close(loaded.predict(x, 400).x0, model.predict(x, 400).x0)
    assert loaded.fingerprint() == model.fingerprint()


def test_another_models_fingerprint_differs(model):
    other = tiny_pipeline("DDIMPipeline", clip_sample=False)
    with torch.no_grad():
        next(other.unet.parameters())[0] += 1e-3
    assert DiffusionModel.from_pipeline(other).fingerprint() != model.fingerprint()


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_every_parameterisation_gives_back_image_and_noise(kind):
    schedule = Schedule.of(DDPMScheduler(prediction_type=kind))
    x0, noise, t = torch.randn(3, 2, 4, 4), torch.randn(3, 2, 4, 4), torch.tensor([3, 500, 999])
    x_t = schedule.add_noise(x0, noise, t)
    signal, sigma = schedule.levels(t, x0)
    target = {"epsilon": noise, "sample": x0, "v_prediction": signal * noise - sigma * x0}[kind]
    predicted = schedule.convert(target, x_t, t)
    torch.testing.assert_close(predicted.eps, noise, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(predicted.x0, x0, atol=1e-2, rtol=1e-2)
    torch.testing.assert_close(x_t, DDPMScheduler().add_noise(x0, noise, t))


def test_latents_are_scaled_as_the_pipeline_scales_them():
    pipeline = tiny_pipeline("LDMPipeline")
    model = DiffusionModel.from_pipeline(pipeline)
    images = torch.rand(1, 3, 16, 16) * 2 - 1
    with torch.no_grad():
        expected = pipeline.vqvae.encode(images).latent_dist.mode()
        torch.testing.assert_close(model.encode(images), 0.7 * expected)
        torch.testing.assert_close(model.decode(model.encode(images)), pipeline.vqvae.decode(expected).sample)


def test_wrong_image_size_names_both_sizes(model):
    with pytest.raises(SparsightError, match="32x32 pixels, but tiny takes 8x8"):
        model.encode(torch.zeros(1, 3, 32, 32))


def test_unknown_names_are_one_clear_line(tmp_path):
    for name in ("worlds/avatarz", str(tmp_path / "nowhere")):
        with pytest.raises(SparsightError) as error:
            DiffusionModel.load(name, local_files_only=True)
        assert "\n" not in str(error.value) and ("avatar" in str(error.value) or "nowhere" in str(error.value))
