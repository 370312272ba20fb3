"""Editors that act together, on the tiny model."""

import torch

from baselines.small_data import BRIGHT, noise, small_data
from sparsight.baselines import Unedited, edit_images, fit, method
from sparsight.pipeline.compare.together import Together


def test_at_strength_zero_nothing_changes():
    data = small_data()
    both = Together(
        ((fit(method("mean_difference"), BRIGHT, data), 0.5), (fit(method("boundary_diffusion"), BRIGHT, data), 0.1))
    )
    plain = edit_images(data.model, Unedited(), 0.0, noise(), data.loop)
    assert torch.equal(edit_images(data.model, both, 0.0, noise(), data.loop), plain)


def test_one_editor_twice_is_one_editor_at_both_strengths():
    data = small_data()
    one = fit(method("mean_difference"), BRIGHT, data)
    twice = edit_images(data.model, Together(((one, 0.2), (one, 0.3))), 1.0, noise(), data.loop)
    once = edit_images(data.model, one, 0.5, noise(), data.loop)
    torch.testing.assert_close(twice, once, atol=1e-4, rtol=0)
    assert (once - edit_images(data.model, one, 0.3, noise(), data.loop)).abs().max() > 1e-2


def test_a_move_and_an_intervention_both_act():
    data = small_data()
    parts = [(fit(method(name), BRIGHT, data), 0.2) for name in ("mean_difference", "boundary_diffusion")]
    both = edit_images(data.model, Together(tuple(parts)), 1.0, noise(), data.loop)
    for editor, strength in parts:
        assert not torch.allclose(both, edit_images(data.model, editor, strength, noise(), data.loop), atol=1e-4)
