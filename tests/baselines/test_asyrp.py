from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from baselines.small_data import BRIGHT, LOOP, BrightClip, Pictures, noise, small_data
from sparsight import Loop, SparsightError, Window, invert
from sparsight.baselines import edit_images, fit, method
from sparsight.baselines.asyrp import _Teacher, first_far, perceptual_curve
from sparsight.baselines.delta_block import DeltaBlock, time_embedding
from sparsight.concepts.paths import Add

QUICK = {"epochs": 2, "images": 4, "batch_size": 2, "lr": 0.05, "window": "given"}


def test_the_block_is_two_1x1_convolutions_round_a_group_norm_with_time_between():
    block, tokens, time = DeltaBlock(64, 128, seed=1), torch.randn(2, 16, 64), torch.randn(128)
    maps = tokens.transpose(1, 2).reshape(2, 64, 4, 4)
    hidden = F.conv2d(maps, block.first.weight[:, :, None, None], block.first.bias)
    hidden = hidden + F.linear(time * time.sigmoid(), block.time.weight, block.time.bias)[None, :, None, None]
    hidden = F.group_norm(hidden, 32, block.norm.weight, block.norm.bias, eps=1e-6)
    expected = F.conv2d(hidden * hidden.sigmoid(), block.last.weight[:, :, None, None], block.last.bias)
    torch.testing.assert_close(block(tokens, time), expected.flatten(2).transpose(1, 2), rtol=1e-4, atol=1e-5)


def test_the_time_embedding_is_what_the_denoiser_gives_its_blocks():
    model, seen = small_data().model, []
    handle = model.denoiser.time_embedding.register_forward_hook(lambda m, a, out: seen.append(out))
    model.predict(noise(), 700)
    handle.remove()
    torch.testing.assert_close(time_embedding(model, 700), seen[0][0])


def test_the_window_begins_where_predictions_are_far_enough():
    assert first_far({900: 0.9, 700: 0.5, 500: 0.3, 300: 0.1}, 0.3) == 500
    assert first_far({900: 0.2}, 0.3) == 500  # no curve reaches it: the released code's own value
    data = small_data()
    pictures = Pictures().batch([0, 1])
    curve = perceptual_curve(data.model, data.perceptual, pictures, noise(), 10)
    x, expected = noise(), {}
    with torch.no_grad():
        for t, t_next in data.model.pairs(10):
            x0, eps = data.model.predict(x, t)
            expected[t] = float(data.perceptual(pictures, x0.clamp(-1, 1)).mean())
            signal, sigma = data.model.schedule.levels(t_next, x)
            x = signal * x0 + sigma * eps
    assert curve == pytest.approx(expected, rel=1e-4)


def test_one_path_takes_the_steps_of_sgd_down_the_loss_as_it_is_written():
    """Two timesteps of one batch; the loss, both paths and the updates are written out again here."""
    data, clip = small_data(), BrightClip()
    model, pictures, start = data.model, Pictures().batch([0, 1]), noise()
    text = clip.text([BRIGHT.source, BRIGHT.target])
    alike = float(text[0] @ text[1])
    chosen = method("asyrp", clip_weight=0.7, l1_weight=2.0)
    teacher = _Teacher(chosen, data, (text[0], text[1]), alike, Window(750, 999))
    ours, theirs = (DeltaBlock(64, len(time_embedding(model, 0)), seed=2) for _ in range(2))
    teacher.one_path(ours, torch.optim.SGD(ours.parameters(), lr=0.1), pictures, start)

    edited = plain = start
    for t, t_next in ((900, 800), (800, 700)):
        tokens = model.read(edited, t, ["mid_block"])["mid_block"]
        eps, still = model.predict(edited, t).eps, model.predict(plain, t)
        with model.edit([Add("mid_block", theirs(tokens, time_embedding(model, t)))]):
            moved = model.predict(edited, t).x0
        change, wanted = clip.image(moved) - clip.image(pictures), text[1] - text[0]
        loss = 0.7 * -((1 + F.cosine_similarity(change, wanted[None])) / 2).log().mean()
        loss = loss + 2.0 * alike * (moved - still.x0).abs().mean()
        grads = torch.autograd.grad(loss, list(theirs.parameters()))
        with torch.no_grad():
            for parameter, grad in zip(theirs.parameters(), grads, strict=True):
                parameter -= 0.1 * grad
            signal, sigma = model.schedule.levels(t_next, edited)
            edited, plain = signal * moved + sigma * eps, signal * still.x0 + sigma * still.eps
    for one, two in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-5)


def test_training_moves_images_toward_the_texts_and_strength_1_is_one_mean_norm():
    data = small_data()
    editor = fit(method("asyrp", **{**QUICK, "epochs": 6, "l1_weight": 0.1}), BRIGHT, data)
    start = invert(data.model, Pictures().batch([0, 2]), LOOP)
    images = [edit_images(data.model, editor, s * editor.own, start, LOOP).mean() for s in (0, 1)]
    assert images[1] > images[0]
    (steering,) = editor.interventions(1.0)
    noises, shifts, sizes = invert(data.model, Pictures().batch([0, 1, 2, 3]), LOOP), [], []
    x = noises
    with torch.no_grad():
        for t, t_next in data.model.pairs(10):
            if t in steering.window:
                tokens = data.model.read(x, t, ["mid_block"])["mid_block"]
                shifts.append(steering.shift_at(tokens, t).norm(dim=-1).mean())
                sizes.append(tokens.norm(dim=-1).mean())
            x0, eps = data.model.predict(x, t)
            signal, sigma = data.model.schedule.levels(t_next, x)
            x = signal * x0 + sigma * eps
    assert float(sum(shifts)) == pytest.approx(float(sum(sizes)), rel=1e-3)


def test_training_that_diverges_and_a_window_without_steps_are_refused():
    with pytest.raises(SparsightError, match="unknown window"):
        method("asyrp", window="lpips")
    with pytest.raises(SparsightError, match="diverged: lower its lr"):
        fit(method("asyrp", **{**QUICK, "lr": 1e30}), BRIGHT, small_data())
    data = replace(small_data(), window=Window(1, 2), loop=Loop(10))
    with pytest.raises(SparsightError, match="no step of the run lies between 1 and 2"):
        fit(method("asyrp", **QUICK), BRIGHT, data)
