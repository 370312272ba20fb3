"""Null-text inversion: its gradient, and that guided DDIM comes back to the image."""

import pytest
import torch

from baselines.small_text import DOG, PROMPT, noise, small_text, told
from sparsight import Loop, SparsightError, invert, sample
from sparsight.baselines import Unedited, edit_images, fit, method
from sparsight.baselines.null_text import OnImages, Tuning, guided_step, null_text_inversion
from tiny_text import tiny_text_model

LOOP = Loop(5, "plain")


def test_the_gradient_by_the_embedding_is_that_of_finite_differences():
    model = tiny_text_model()
    model.denoiser.double()
    spoken = model.encode_prompts(PROMPT, guidance=5.0)
    x, wanted = torch.randn(2, 1, *model.latent_shape, dtype=torch.float64)
    prompted = model.predict(x, 601, model.encode_prompts(PROMPT, guidance=1.0)).eps.detach()
    loss = lambda own: (guided_step(model, x, prompted, own, (601, 401), spoken) - wanted).square().mean()  # noqa: E731
    negative = spoken.negative.double().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(negative), negative)
    for place in ((0, 0, 3), (0, 4, 7), (0, 11, 15)):
        step = torch.zeros_like(negative)
        step[place] = 1e-5
        with torch.no_grad():
            slope = (loss(negative + step) - loss(negative - step)) / 2e-5
        assert float(gradient[place]) == pytest.approx(float(slope), rel=1e-4, abs=1e-9)


def test_the_guided_step_is_the_samplers():
    model, x, spoken = small_text().model, noise(), told(guidance=5.0)
    with torch.no_grad():
        prompted = model.predict(x, 801, told(guidance=1.0)).eps
        found = guided_step(model, x, prompted, spoken.negative.expand(2, -1, -1), (801, 601), spoken)
        x0, eps = model.predict(x, 801, spoken)
    signal, sigma = model.schedule.levels(601, x)
    torch.testing.assert_close(found, signal * x0 + sigma * eps, atol=1e-4, rtol=1e-4)


def test_guided_sampling_comes_back_to_the_image_and_a_method_edits_it():
    model, spoken = small_text().model, told(guidance=7.5)
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(5)) * 0.5
    start = invert(model, latents, LOOP, conditioning=told(guidance=1.0))
    plain = (sample(model, start, LOOP, conditioning=spoken) - latents).square().mean()
    images = null_text_inversion(model, latents, spoken, LOOP, Tuning(inner=15, lr=5e-2, stop=0.0, slack=0.0))
    assert torch.equal(images.noise, start) and set(images.negatives) == {t for t, _ in model.pairs(5)}
    assert images.errors[-1] < 0.5 * float(plain)
    back = edit_images(model, OnImages(Unedited(), images), 1.0, images.noise, LOOP, spoken)
    x = images.noise
    with torch.no_grad():
        for t, t_next in model.pairs(5):
            own = model.encode_prompts(PROMPT, guidance=7.5)
            object.__setattr__(own, "negative", images.negatives[t])
            x0, eps = model.predict(x, t, own)
            signal, sigma = model.schedule.levels(t_next, x)
            x = signal * x0 + sigma * eps
        torch.testing.assert_close(back, model.decode(x).clamp(-1, 1), atol=1e-4, rtol=1e-4)
    assert float((x - latents).square().mean()) == pytest.approx(images.errors[-1], rel=1e-3)
    editor = OnImages(fit(method("prompt_to_prompt"), DOG, small_text()), images)
    edited = edit_images(model, editor, 0.4, images.noise, LOOP, spoken)
    assert torch.equal(edit_images(model, editor, 0.0, images.noise, LOOP, spoken), back)
    assert not torch.equal(edited, back) and editor.own == 0.2
    assert not any(p.requires_grad for p in model.denoiser.parameters())
    with pytest.raises(SparsightError, match="with the same loop"):
        edit_images(model, editor, 0.4, images.noise, Loop(7), spoken)


def test_an_embedding_that_is_good_enough_stays():
    model, spoken = small_text().model, told()
    images = null_text_inversion(model, noise(1), spoken, LOOP, Tuning(stop=1e9))
    assert all(torch.equal(own, spoken.negative) for own in images.negatives.values())


def test_without_guidance_there_is_nothing_to_invert():
    with pytest.raises(SparsightError, match="is for guidance above 1"):
        null_text_inversion(small_text().model, noise(1), told(guidance=1.0), LOOP)
