from dataclasses import replace

import pytest
import torch

from baselines.small_data import BRIGHT, alignment, small_data
from sparsight.baselines import fit, method
from sparsight.baselines.casl import learned_alignments
from sparsight.concepts import AlignConfig, align

STEP = type("Step", (), {"t": 700})


def test_casl_is_equation_11_up_to_its_unit():
    data = small_data()
    (steering,) = fit(method("casl", k=3), BRIGHT, data).interventions(2.0)
    W, tokens = alignment(BRIGHT).W, data.at(700, "tokens")["tokens"]
    a = torch.zeros(32)
    a[W.norm(dim=1).topk(3).indices] = 2.0 * steering.unit
    torch.testing.assert_close(steering(tokens, STEP), tokens + (a * data.sae.encode(tokens)) @ W, rtol=1e-4, atol=1e-4)


def test_other_latents_can_be_steered_by_number():
    (steering,) = fit(method("casl", latents=(4, 9)), BRIGHT, small_data()).interventions(1.0)
    assert steering.latents == (4, 9)
    torch.testing.assert_close(steering.directions, alignment(BRIGHT).W[[4, 9]])


@pytest.mark.parametrize("name", ["casl_random_direction", "casl_decoder_atom", "casl_random_latent", "casl_no_sae"])
def test_an_ablation_changes_what_its_name_says_and_nothing_else(name):
    data, W = small_data(), alignment(BRIGHT).W
    (casl,), (other,) = (fit(method(n, k=2), BRIGHT, data).interventions(1.0) for n in ("casl", name))
    if name == "casl_no_sae":
        torch.testing.assert_close(other.matrix, alignment(BRIGHT, "channels").W)
        return
    assert (other.latents == casl.latents) == (name != "casl_random_latent")
    expected = {"casl_decoder_atom": data.sae.W_dec[list(casl.latents)], "casl_random_latent": W[list(other.latents)]}
    if name in expected:
        torch.testing.assert_close(torch.cosine_similarity(other.directions, expected[name]), torch.ones(2))
    else:
        assert torch.cosine_similarity(other.directions, casl.directions).abs().max() < 0.6


def test_a_random_latent_fires_and_moves_along_its_own_atom():
    data = small_data()
    drawn = set()
    for draw in range(6):
        (steering,) = fit(method("random_latent", draw=draw), BRIGHT, data).interventions(1.0)
        (latent,) = steering.latents
        drawn.add(latent)
        assert data.sae.encode(data.sample()["tokens"])[..., latent].max() > 0
        cosine = torch.cosine_similarity(steering.directions[0], data.sae.W_dec[latent], dim=0)
        assert float(cosine) == pytest.approx(1, abs=1e-5)
    assert len(drawn) > 1


def test_a_random_direction_is_one_vector_of_its_seed_and_draw():
    vectors = [
        fit(method("random_direction", draw=d), BRIGHT, replace(small_data(), seed=s)).interventions(1.0)[0].vector
        for s, d in ((0, 0), (0, 0), (0, 1), (1, 0))
    ]
    assert torch.equal(vectors[0], vectors[1]) and vectors[0].shape == (64,)
    for other in vectors[2:]:
        assert abs(float(torch.cosine_similarity(vectors[0], other, dim=0))) < 0.5


def test_alignments_are_learned_when_they_are_first_asked_for():
    data, config = small_data(), AlignConfig(updates=3, batch_size=4)
    source = learned_alignments(data, config)
    expected = align(
        data.model,
        data.sae,
        data.store,
        data.images,
        [BRIGHT],
        data.clip,
        config,
        without_sae=True,
        numbers=data.numbers,
    )
    for basis in ("latents", "channels"):
        found = source(BRIGHT, basis)
        assert torch.equal(found.W, expected["bright", basis].W)
        assert source(BRIGHT, basis) is found  # once
