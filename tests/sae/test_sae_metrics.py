"""Metrics against the formulas over the whole set at once, in fp64."""

import pytest
import torch

from sparsight.activations import TokenBatch
from sparsight.errors import SparsightError
from sparsight.sae import SAE, SAEConfig, evaluate_sae
from sparsight.sae.metrics import explained_variance


@pytest.fixture
def sae():
    sae = SAE(SAEConfig(8, 40), seed=3)
    sae.set_statistics(torch.full((8,), 20.0), 0.5)
    with torch.no_grad():
        sae.b_enc[7] = -100
    return sae


def test_metrics_are_their_definitions(sae):
    x = torch.randn(700, 8, generator=torch.Generator().manual_seed(0)) * 3 + 21
    found = evaluate_sae(sae, [x[:100].view(10, 10, 8), x[100:650], x[650:]], chunk=64)
    z = sae.encode(x).detach().double()
    x, out, mean = x.double(), sae(x).detach().double(), sae.mean.double()
    cosine = torch.nn.functional.cosine_similarity
    assert found == {
        "mse": pytest.approx(float((x - out).square().mean()), rel=1e-5),
        "mse_normalised": pytest.approx(float((x - out).square().mean()) * 0.25, rel=1e-5),
        "cosine": pytest.approx(float(cosine(x, out).mean()), rel=1e-5),
        "cosine_centred": pytest.approx(float(cosine(x - mean, out - mean).mean()), rel=1e-5),
        "fve": pytest.approx(1 - float((x - out).square().sum() / (x - x.mean(0)).square().sum()), rel=1e-5),
        "l0": pytest.approx(float((z > 0).sum(1).double().mean())),
        "dar": pytest.approx(float((z > 0).double().mean())),
        "dead": pytest.approx(float((z == 0).all(0).double().mean())),
        "n_tokens": 700,
    }
    assert found["dead"] >= 1 / 40 and found["cosine"] > found["cosine_centred"]


def test_bins_of_t_are_the_metrics_of_their_tokens(sae):
    x = torch.randn(60, 8) + 20
    t = torch.arange(60) * 10
    none = torch.zeros(60, dtype=torch.int64)
    found = evaluate_sae(sae, [TokenBatch(x, none, t, none)], bins=[0, 200, 500, 550, 5000, 6000])
    assert [(b["from"], b["to"], b["n_tokens"]) for b in found["by_t"]] == [
        (0, 200, 20),
        (200, 500, 30),
        (500, 550, 5),
        (550, 5000, 5),
    ]
    alone = evaluate_sae(sae, [x[20:50]])
    assert {k: found["by_t"][1][k] for k in alone} == pytest.approx(alone)


def test_the_density_histogram_counts_every_latent_once(sae):
    x = torch.randn(700, 8, generator=torch.Generator().manual_seed(0)) * 3 + 21
    found = evaluate_sae(sae, [x[:300], x[300:]], density=True)["density"]
    share = (sae.encode(x) > 0).double().mean(0)
    edges = found["log10_edges"]
    for low, high, count in zip(edges[:-1], edges[1:], found["latents"], strict=True):
        top = share <= 1 if high == 0 else share < 10**high
        assert count == int(((share >= 10**low) & top).sum())
    assert found["never"] == int((share == 0).sum()) >= 1 and sum(found["latents"]) + found["never"] == 40


def test_mistakes_are_named(sae):
    with pytest.raises(SparsightError, match="no tokens"):
        evaluate_sae(sae, [])
    with pytest.raises(SparsightError, match="TokenBatches"):
        evaluate_sae(sae, [torch.zeros(3, 8)], bins=[0, 10])


def test_the_paper_s_two_metrics_are_scikit_learn_s(sae):
    from sklearn.metrics import explained_variance_score, mean_squared_error

    x = torch.randn(300, 8, generator=torch.Generator().manual_seed(1)) * torch.arange(1.0, 9.0) + 20
    out = sae(x).detach().double().numpy()
    found = explained_variance(sae, x)
    assert found["explained_variance"] == pytest.approx(explained_variance_score(x.double(), out), rel=1e-6)
    spread = float(x.double().var(0, correction=0).mean())
    assert found["scaled_mse"] == pytest.approx(mean_squared_error(x.double(), out) / spread, rel=1e-6)
