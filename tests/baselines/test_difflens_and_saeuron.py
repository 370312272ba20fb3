from dataclasses import replace

import pytest
import torch
from sklearn.linear_model import LogisticRegression

from baselines.small_data import BRIGHT, COUNT, small_data
from sparsight import SparsightError
from sparsight.baselines import fit, method
from sparsight.baselines.difflens import integrated_gradients, linear_classifier, linear_head
from sparsight.baselines.saeuron import choose, mean_codes, share_difference

ODD = torch.arange(COUNT) % 2 == 1


def _step(t):
    return type("Step", (), {"t": t})


def test_credits_of_a_logit_are_codes_times_what_their_atoms_say():
    data = small_data()
    tokens, weights = data.at(700, "tokens")["tokens"][:3], torch.randn(16, 64)
    found = integrated_gradients(data.sae, tokens, linear_head(weights, 0.3, "logit"), t=700, points=1)
    slope = weights @ data.sae.W_dec.T / data.sae.scale  # the decoder is linear, so one point is exact
    torch.testing.assert_close(found, data.sae.encode(tokens) * slope)


def test_credits_of_a_probability_add_up_to_its_change():
    data = small_data()
    tokens, head = data.at(700, "tokens")["tokens"][:3], linear_head(torch.randn(16, 64) / 20, 0.3, "probability")
    found = integrated_gradients(data.sae, tokens, head, t=700, points=400)
    code = data.sae.encode(tokens)
    change = head(data.sae.decode(code)) - head(data.sae.decode(torch.zeros_like(code)))
    torch.testing.assert_close(found.sum((1, 2)), change, rtol=1e-3, atol=1e-4)


def test_the_classifier_is_scikit_learns_in_raw_units():
    tokens = small_data().at(700, "tokens")["tokens"]
    weights, bias = linear_classifier(tokens, ODD)
    flat = tokens.flatten(1).double()
    scale = (flat - flat.mean(0)).norm(dim=1).mean()
    expected = (
        LogisticRegression(max_iter=1000)
        .fit((flat - flat.mean(0)) / scale, ODD)
        .decision_function((flat - flat.mean(0)) / scale)
    )
    logits = (tokens * weights).sum((1, 2)) + bias
    torch.testing.assert_close(logits, torch.tensor(expected).float(), rtol=1e-3, atol=1e-3)
    assert torch.equal(logits > 0, ODD)
    with pytest.raises(SparsightError, match="with the concept and images without"):
        linear_classifier(tokens, torch.ones(COUNT, dtype=torch.bool))


def test_difflens_edits_the_latents_with_the_most_credit():
    data = small_data()
    chosen = method("difflens", top=3)
    credits = chosen.credits(BRIGHT, data)
    by_hand = torch.zeros(32)
    for t in data.stamps():
        tokens = data.at(t, "tokens")["tokens"]
        head = linear_head(*linear_classifier(tokens, ODD), "probability")
        by_hand += integrated_gradients(data.sae, tokens[ODD], head, t=t, points=20).sum((0, 1)) / 4
    torch.testing.assert_close(credits, by_hand)
    best = sorted(range(32), key=lambda i: -credits[i])[:3]
    (adding,) = fit(chosen, BRIGHT, data).interventions(1.0)
    expected = data.sae.W_dec[best].sum(0)
    assert float(torch.cosine_similarity(adding.vector, expected, dim=0)) == pytest.approx(1, abs=1e-5)
    (scaling,) = fit(replace(chosen, form="scale"), BRIGHT, data).interventions(1.0)
    assert sorted(scaling.latents) == sorted(best)


def test_share_differences_and_their_cut_are_as_written():
    with_, without = torch.tensor([3.0, 1.0, 0.0, 4.0]), torch.tensor([1.0, 1.0, 2.0, 0.0])
    expected = torch.tensor([3 / 8 - 1 / 4, 1 / 8 - 1 / 4, 0 - 2 / 4, 4 / 8 - 0])
    torch.testing.assert_close(share_difference(with_, without), expected)
    codes = torch.stack([with_, without])
    found = choose(codes, torch.tensor([True, False]), 60)
    assert found.latents.tolist() == [0, 3]
    torch.testing.assert_close(found.means, with_[[0, 3]])
    torch.testing.assert_close(found.gate, codes.mean(0)[[0, 3]])
    assert choose(codes, torch.tensor([True, False]), 100).latents.tolist() == [3]


@pytest.mark.parametrize("strength", [-1.0, 0.7])
@pytest.mark.parametrize("error", ["preserve", "drop", "as_released"])
def test_saeuron_is_its_equation_token_by_token(error, strength):
    data = small_data()
    editor = fit(method("saeuron", percentile=80, gamma=-2.0, error=error), BRIGHT, data)
    (scaling,) = editor.interventions(strength)
    sae, tokens = data.sae, data.at(700, "tokens")["tokens"]
    codes = torch.stack([sae.encode(one).mean(0) for one in tokens])
    torch.testing.assert_close(mean_codes(sae, tokens, 700), codes)
    chosen = choose(codes, ODD, 80)
    edited = sae.encode(tokens)
    fired = 0
    for latent, mean, gate in zip(*chosen, strict=True):
        f = edited[..., latent]
        paper = -2.0 * mean * f  # strength -1
        there = f > gate
        fired += int(there.sum())
        edited[..., latent] = torch.where(there, f + -strength * (paper - f), f)
    assert fired
    before, after = sae.decode(sae.encode(tokens)), sae.decode(edited)
    expected = {"preserve": tokens + (after - before), "drop": after, "as_released": after + (before - tokens)}[error]
    torch.testing.assert_close(scaling(tokens, _step(700)), expected, rtol=1e-4, atol=1e-4)


def test_the_released_error_term_changes_tokens_in_which_nothing_fires():
    data = small_data()
    tokens = data.at(700, "tokens")["tokens"]
    for error, same in (("preserve", True), ("as_released", False)):
        editor = fit(method("saeuron", error=error), BRIGHT, data)
        silent = {t: c._replace(gate=torch.full_like(c.gate, 1e9)) for t, c in editor.chosen.items()}
        (scaling,) = replace(editor, chosen=silent).interventions(-1.0)
        assert torch.equal(scaling(tokens, _step(700)), tokens) == same


def test_options_that_do_not_exist_are_refused():
    for name, option in (("saeuron", {"error": "keep"}), ("saeuron", {"percentile": 101}), ("difflens", {"form": "x"})):
        with pytest.raises(SparsightError):
            method(name, **option)
