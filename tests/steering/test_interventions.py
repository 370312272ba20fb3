from types import SimpleNamespace

import pytest
import torch

from sparsight import Loop, SparsightError, sample
from sparsight.concepts import Alignment, Concept
from sparsight.sae import SAE, SAEConfig
from sparsight.steering import (
    CONTROLS,
    Direction,
    LinearMap,
    Window,
    casl_steer,
    controls,
    mean_difference,
    mean_shift,
    steer_together,
)

STEP = SimpleNamespace(t=700)


def _sae(channels=64, latents=40, seed=0):
    sae = SAE(SAEConfig(channels, latents), seed=seed)
    sae.set_statistics(torch.randn(channels), 1.7)
    with torch.no_grad():
        sae.b_enc.fill_(0.1)
    return sae.requires_grad_(False)


def _alignment(latents=40, channels=64, basis="latents"):
    generator = torch.Generator().manual_seed(3)
    W = torch.randn(latents, channels, generator=generator)
    return Alignment(
        Concept("c", "a", "b"), "mid_block", W, torch.ones(channels), torch.rand(latents, generator=generator), basis
    )


def test_casl_steer_is_equation_11():
    # fp64, so that the order of the sums cannot matter
    sae, alignment, tokens = _sae().double(), _alignment(), torch.randn(2, 16, 64, dtype=torch.float64)
    alignment.W = alignment.W.double()
    steer = casl_steer(sae, alignment, k=3, alpha=5.0)
    order = sorted(range(40), key=lambda i: -alignment.W[i].norm())[:3]
    a = torch.zeros(40, dtype=torch.float64)
    a[order] = 5.0
    expected = tokens + (a * sae.encode(tokens)) @ alignment.W  # W (a * z), over all latents, no bias
    torch.testing.assert_close(steer(tokens, STEP), expected)


def test_k_of_all_latents_is_the_trained_edit_without_its_bias():
    sae, alignment, tokens = _sae(), _alignment(), torch.randn(2, 16, 64)
    steer = casl_steer(sae, alignment, k=40, alpha=1.0)
    torch.testing.assert_close(steer(tokens, STEP) - tokens, sae.encode(tokens) @ alignment.W, atol=1e-4, rtol=1e-4)


def test_zero_alpha_returns_the_same_object_and_is_never_active():
    tokens = torch.randn(1, 4, 64)
    for method in (casl_steer(_sae(), _alignment(), alpha=0), Direction("mid_block", 0.0, vector=torch.ones(64))):
        assert method(tokens, STEP) is tokens
        assert not method.active(700)


def test_zero_alpha_gives_the_unedited_image_exactly(model):
    noise = torch.randn(1, *model.latent_shape)
    steer = casl_steer(_sae(), _alignment(), alpha=0)
    assert torch.equal(sample(model, noise, Loop(steps=8), interventions=[steer]), sample(model, noise, Loop(steps=8)))


def test_steering_changes_the_image_only_through_its_window(model):
    noise = torch.randn(1, *model.latent_shape)
    plain = sample(model, noise, Loop(steps=8))
    steer = casl_steer(_sae(), _alignment(), alpha=3.0, window=Window(2000, 3000))
    assert torch.equal(sample(model, noise, Loop(steps=8), interventions=[steer]), plain)
    steer = casl_steer(_sae(), _alignment(), alpha=3.0)
    assert not torch.equal(sample(model, noise, Loop(steps=8), interventions=[steer]), plain)


def test_several_concepts_merge_into_the_sum_of_their_shifts():
    sae, tokens = _sae().double(), torch.randn(2, 16, 64, dtype=torch.float64)
    alignment = _alignment()
    alignment.W = alignment.W.double()
    one, two = casl_steer(sae, alignment, k=2, alpha=2.0), casl_steer(sae, alignment, k=1, alpha=-1.5)
    (both,) = steer_together([one, two])
    expected = tokens + 2.0 * one.shift(tokens) - 1.5 * two.shift(tokens)
    torch.testing.assert_close(both(tokens, STEP), expected)


def test_rankings_follow_their_definitions():
    alignment = _alignment()
    torch.testing.assert_close(alignment.scores("l1"), alignment.W.abs().sum(1))
    torch.testing.assert_close(alignment.scores("max"), alignment.W.abs().max(1).values)
    torch.testing.assert_close(
        alignment.scores("contribution"), alignment.W.square().sum(1).sqrt() * alignment.mean_activation
    )
    with pytest.raises(SparsightError, match="did you mean 'l2'"):
        alignment.scores("l22")


def test_latents_that_never_fire_are_never_chosen():
    alignment = _alignment()
    alignment.mean_activation[:] = 0
    alignment.mean_activation[17] = 1e-3
    assert alignment.top(1) == [17]


def test_every_control_shifts_as_much_as_casl_and_is_what_it_says():
    sae, alignment, tokens = _sae(), _alignment(), torch.randn(24, 16, 64)
    labels = torch.arange(24) % 2 == 0
    casl = casl_steer(sae, alignment, k=2)
    found = controls(casl, alignment, _alignment(64, basis="channels"), tokens, labels)
    assert set(found) == set(CONTROLS)
    for control in found.values():
        assert mean_shift(control, tokens) == pytest.approx(mean_shift(casl, tokens), rel=1e-4)
    norms = casl.directions.norm(dim=1)
    torch.testing.assert_close(found["random_direction"].directions.norm(dim=1), norms)
    torch.testing.assert_close(found["decoder_atom"].directions.norm(dim=1), norms)
    cosine = torch.cosine_similarity(found["decoder_atom"].directions, sae.W_dec[list(casl.latents)])
    torch.testing.assert_close(cosine, torch.ones(2))
    assert set(found["random_latent"].latents).isdisjoint(casl.latents)
    expected = tokens[labels].mean((0, 1)) - tokens[~labels].mean((0, 1))
    torch.testing.assert_close(found["mean_difference"].vector, expected)
    assert found["mean_difference_map"].vector.shape == (16, 64)
    assert isinstance(found["no_sae"], LinearMap)


def test_a_mean_difference_needs_both_classes():
    with pytest.raises(SparsightError, match="with the concept and images without"):
        mean_difference(torch.randn(4, 2, 3), torch.ones(4))


def test_an_alignment_of_another_sae_is_refused():
    with pytest.raises(SparsightError, match="40 latents, but the SAE has 50 latents"):
        casl_steer(_sae(latents=50), _alignment())


def test_an_empty_window_is_refused():
    with pytest.raises(SparsightError, match="nothing lies between"):
        Window(700, 600)


def test_alignment_survives_saving(tmp_path):
    alignment = _alignment()
    alignment.save(tmp_path)
    loaded = Alignment.load(tmp_path)
    torch.testing.assert_close(loaded.W, alignment.W.half().float())
    assert loaded.concept == alignment.concept and loaded.top(5) == alignment.top(5)
    (tmp_path / "alignment.safetensors").write_bytes(b"broken")
    with pytest.raises(SparsightError, match="no readable alignment"):
        Alignment.load(tmp_path)
