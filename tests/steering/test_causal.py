"""The mean-difference test against a dense statement of it; the swap test is in tests/worlds."""

import torch

from sparsight import Loop, Window, sample
from sparsight.steering.causal import class_differences, mean_difference_test, swap_test
from tiny_text import SITES, tiny_text_model

SITE = "mid_block"


def _images(model, count=6):
    return torch.rand(count, 3, *model.image_size, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_class_differences_are_means_with_minus_means_without(model):
    images = _images(model)
    labels = torch.tensor([[1, 0], [1, 0], [0, 1], [0, 1], [0, 1], [1, 1]]).bool()
    found = class_differences(model, SITE, images, labels, steps=10, window=Window(500, 900))
    assert sorted(found) == [t for t in range(0, 1000, 100) if 500 <= t <= 900]
    latents = model.encode(images)
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))
    signal, sigma = model.schedule.levels(700, latents)
    with torch.no_grad(), model.capture([SITE]) as tape:
        model.predict(signal * latents + sigma * noise, 700)
    tokens = tape[SITE]
    for attribute in range(2):
        own = labels[:, attribute]
        torch.testing.assert_close(found[700][attribute], tokens[own].mean(0) - tokens[~own].mean(0))


def test_an_attribute_that_all_images_have_gives_nan(model):
    found = class_differences(model, SITE, _images(model, 2), torch.ones(2, 1).bool(), steps=4)
    assert all(shift.isnan().all() for shift in found.values())


def test_the_test_counts_the_samples_that_take_on_the_attribute(model):
    """The judge reads brightness, and is set between the plain and the shifted samples' brightness."""
    noise = torch.randn(4, *model.latent_shape, generator=torch.Generator().manual_seed(2))
    loop = Loop(steps=5, mode="plain")
    channels = model.site(SITE).channels
    differences = {t: torch.randn(1, 1, channels) for t, _ in model.pairs(5)}
    bright = model.decode(sample(model, noise, loop)).clamp(-1, 1).mean((1, 2, 3))

    def share(threshold, factors=(0.0, 3.0)):
        def judge(images):
            return images.mean((1, 2, 3))[:, None] - threshold

        return mean_difference_test(model, SITE, noise, differences, judge, factors, loop)

    assert share(bright.max() + 1e-4)[0, 0] == 0  # factor 0 is the plain sample, which lacks it
    assert share(bright.min() - 1e-4).isnan().all()  # every sample has it already
    low = share(bright.max() + 1e-4, (3.0, -3.0))
    assert low.max() > 0  # one of the two signs makes some image brighter than all plain ones


def test_a_swap_under_guidance_stays_within_its_half():
    """Two prompts' halves, one site and one step: row 1 of each half takes the tokens of row 0 of the same half."""
    model = tiny_text_model()
    told = model.encode_prompts("a cat", guidance=4.0)
    noise = torch.randn(2, *model.latent_shape, generator=torch.Generator().manual_seed(2))
    found = swap_test(model, SITES[2], noise, Loop(steps=2), Window(0, 999), told)

    class Put:
        site = SITES[2]

        def active(self, t):
            return True

        def __call__(self, tokens, step):
            return self.tokens

    put, own, swapped = Put(), noise, noise
    for t, t_next in model.pairs(2):
        signal, sigma = model.schedule.levels(t_next, noise)
        with torch.no_grad(), model.capture([SITES[2]]) as tape:
            plain = model.predict(own, t, told)
        put.tokens = torch.stack([tape[SITES[2]][row] for row in (1, 0, 3, 2)])
        with torch.no_grad(), model.edit([put]):
            changed = model.predict(swapped, t, told)
        own, swapped = signal * plain.x0 + sigma * plain.eps, signal * changed.x0 + sigma * changed.eps
    with torch.no_grad():
        torch.testing.assert_close(found.swapped, model.decode(swapped).clamp(-1, 1))
