"""Every variant's hand-written step against dense autograd in fp64, and what each does at inference."""

import math
from dataclasses import replace

import pytest
import torch

import sparsight.sae.kernels as kernels
from sparsight.sae import SAE, SAEConfig
from sparsight.sae.initial import initial_threshold
from sparsight.sae.kernels import Rule, Weights, Workspace, training_step
from sparsight.sae.reference import reference_loss
from sparsight.sae.variants.batchtopk import largest_code

D, M, B = 6, 50, 40
RULES = {
    "relu": Rule(sparsity=8.0, dense_above=1.0),
    "relu dense": Rule(sparsity=8.0, dense_above=0.0),
    "topk": Rule("topk", 4),
    "batchtopk": Rule("batchtopk", 4),
    "jumprelu": Rule("jumprelu", sparsity=8.0, bandwidth=0.8),
    "gated": Rule("gated", sparsity=8.0),
}


def problem(activation, bins=0, bias=-0.5, seed=0):
    """Tokens, weights, own parameters and one-hot bins, all fp64."""
    g = torch.Generator().manual_seed(seed)

    def randn(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64) * 0.5

    w = Weights(randn(M, D), randn(M) + bias, randn(M, D), randn(D))
    own = {"jumprelu": {"log_threshold": randn(M) - 0.7}, "gated": {"r_mag": randn(M), "b_mag": randn(M)}}
    own = own.get(activation, {})
    time = torch.eye(bins, dtype=torch.float64)[torch.arange(B) % bins] if bins else None
    own |= {"b_time": randn(bins, M)} if bins else {}
    return randn(B, D) * 2, w, own, time


def assert_autograd(rule, x, w, own, time, dead=None):
    """Loss, and every gradient of every parameter; returns the step."""
    result = training_step(x, w, rule, Workspace(), dead, own, time)
    leaves = {name: v.clone().requires_grad_() for name, v in (w._asdict() | own).items()}
    four = Weights(*(leaves[name] for name in Weights._fields))
    loss = reference_loss(x, four, rule, dead, {name: leaves[name] for name in own}, time)
    expected = dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))
    found = result.gradients._asdict() | result.own
    torch.testing.assert_close(result.loss, loss.detach())
    assert found.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], msg=lambda m, n=name: f"{n}: {m}")
    return result, expected


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("pre_bias", [True, False])
@pytest.mark.parametrize("bins", [0, 3])
def test_the_step_is_autograd(name, pre_bias, bins):
    rule = replace(RULES[name], pre_bias=pre_bias)
    result, expected = assert_autograd(rule, *problem(rule.activation, bins))
    assert 0 < result.active < B * M
    for gradient in expected.values():
        assert gradient.abs().sum() > 0  # nothing is compared that could not differ


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("prefixes", [(10,), (1, 7, 30), (20, M)])
def test_matryoshka_is_autograd_on_top_of_any_activation(name, prefixes):
    rule = replace(RULES[name], prefixes=prefixes)
    result, _ = assert_autograd(rule, *problem(rule.activation, bins=2))
    single = training_step(
        *problem(rule.activation)[:2], replace(rule, prefixes=()), Workspace(), own=problem(rule.activation)[2]
    )
    assert result.loss != single.loss


@pytest.mark.parametrize("name", ["topk", "batchtopk", "jumprelu", "gated"])
@pytest.mark.parametrize("prefixes", [(), (7, 30)])
def test_auxk_is_autograd_and_reaches_dead_latents(name, prefixes):
    x, w, own, time = problem(name, bins=2)
    dead = torch.zeros(M, dtype=torch.bool)
    dead[::4] = True
    w.b_enc[dead] -= 3.0
    rule = replace(RULES[name], aux_k=3, aux_coefficient=0.5, prefixes=prefixes)
    result, _ = assert_autograd(rule, x, w, own, time, dead)
    without = training_step(x, w, replace(rule, aux_k=0), Workspace(), dead, own, time)
    for one, other in [
        (result.gradients.enc, without.gradients.enc),
        (result.own["b_time"].t(), without.own["b_time"].t()),
    ]:
        assert (one - other)[dead].abs().sum() > 0


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("bias", [-100.0, 30.0])
def test_codes_that_are_empty_or_full_are_autograd(name, bias):
    rule = replace(RULES[name], prefixes=() if name == "relu dense" else (5,))
    result, _ = assert_autograd(rule, *problem(rule.activation, bias=bias))
    assert bias > 0 or result.active == 0


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("rows", [1, 7, 39])
def test_chunks_do_not_show(monkeypatch, name, rows):
    x, w, own, time = problem(RULES[name].activation, bins=3)
    whole = training_step(x, w, RULES[name], Workspace(), None, own, time)
    monkeypatch.setattr(kernels, "CHUNK", rows * M)
    parts = training_step(x, w, RULES[name], Workspace(), None, own, time)
    torch.testing.assert_close(parts.gradients, whole.gradients)
    torch.testing.assert_close(parts.own, whole.own)
    torch.testing.assert_close(parts.threshold, whole.threshold)
    assert torch.equal(parts.fired, whole.fired)


# --- BatchTopK's selection


def chosen(pre, wanted, rows):
    code = largest_code(pre.split(rows), len(pre), wanted)
    return code, code.dense(pre.shape[1])


@pytest.mark.parametrize("rows", [1, 3, 64])
@pytest.mark.parametrize("wanted", [1, 20, 64, 640, 3000, 6400, 9999])
@pytest.mark.parametrize("order", ["random", "rising", "falling"])
def test_selection_is_that_of_a_sort(rows, wanted, order):
    pre = torch.randn(64, 100, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    if order != "random":  # the running bound is useless for rising values, and tight at once for falling ones
        pre = pre.flatten().sort(descending=order == "falling").values.view(64, 100)
    code, dense = chosen(pre, wanted, rows)
    flat = pre.flatten().sort(descending=True, stable=True)
    expected = torch.zeros(6400, dtype=torch.float64)
    best = slice(0, min(wanted, int((pre > 0).sum())))
    expected[flat.indices[best]] = flat.values[best]
    assert torch.equal(dense, expected.view(64, 100))
    assert torch.equal(code.l0, (expected.view(64, 100) > 0).sum(1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_ties_never_keep_too_many(dtype):
    pre = torch.randint(-2, 3, (64, 100), generator=torch.Generator().manual_seed(1)).to(dtype)
    for wanted in (100, 1500, 2500):
        code, dense = chosen(pre, wanted, 10)
        best = pre.float().flatten().topk(wanted).values
        assert len(code.values) == min(wanted, int((pre > 0).sum()))
        assert torch.equal(dense.flatten().float().topk(wanted).values, best.relu())


def test_the_reported_threshold_is_where_the_batch_was_cut():
    x, w, _, _ = problem("batchtopk")
    pre = ((x - w.b_dec) @ w.enc.t() + w.b_enc).flatten()
    result = training_step(x, w, Rule("batchtopk", 4), Workspace())
    torch.testing.assert_close(result.threshold, pre.topk(4 * B).values[-1])
    assert training_step(x, w, Rule("batchtopk", M), Workspace()).threshold == 0  # fewer positive ones than may be kept


# --- JumpReLU, stated once more by hand


def test_the_straight_through_gradient_of_one_latent_is_the_papers():
    """One latent, one channel: theta = 1, width 0.4; of the tokens only 0.9 and 1.1 lie inside the rectangle."""
    x = torch.tensor([[0.5], [0.9], [1.1], [2.0]], dtype=torch.float64)
    one, zero = torch.ones(1, 1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    w = Weights(one, zero, one * 3, zero)
    rule = Rule("jumprelu", sparsity=2.0, bandwidth=0.4)
    result = training_step(x, w, rule, Workspace(), own={"log_threshold": zero})
    z = torch.tensor([0.0, 0.0, 1.1, 2.0], dtype=torch.float64)
    dz = 2 * (3 * z - x[:, 0]) / 4 * 3
    theta, inside = 1.0, [1, 2]
    expected = sum(-(theta / 0.4) * dz[i] - (2.0 / 4) / 0.4 for i in inside)
    torch.testing.assert_close(result.own["log_threshold"], (theta * expected).reshape(1))
    torch.testing.assert_close(result.gradients.b_enc, dz[2:].sum().reshape(1))
    torch.testing.assert_close(result.loss, (3 * z - x[:, 0]).square().mean() + 2.0 * 2 / 4)
    assert result.active == 2


def test_the_l0_gradient_is_the_slope_of_the_expected_l0():
    """The estimate's purpose (eq. 10): for many tokens it is d E[L0] / d theta = -density(theta), here of a normal."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(400_000, 1, generator=g, dtype=torch.float64)
    one, zero = torch.ones(1, 1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    w = Weights(one, zero, one * 0, zero)  # nothing is reconstructed: the penalty alone remains
    theta = 0.8
    own = {"log_threshold": torch.tensor([theta], dtype=torch.float64).log()}
    result = training_step(x, w, Rule("jumprelu", sparsity=1.0, bandwidth=0.1), Workspace(), own=own)
    density = math.exp(-(theta**2) / 2) / math.sqrt(2 * math.pi)
    assert float(result.own["log_threshold"]) == pytest.approx(-theta * density, rel=0.03)


# --- inference


def make(activation, t_edges=(), **options):
    sae = SAE(SAEConfig(8, 64, activation, k=5, t_edges=t_edges, **options), seed=1)
    sae.set_statistics(torch.linspace(-50, 50, 8), 0.1)
    g = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, p in sae.named_parameters():
            if name not in ("W_enc", "W_dec"):
                p.copy_(torch.randn(p.shape, generator=g) * 0.5)
        if activation == "batchtopk":
            sae.threshold.fill_(0.7)
    return sae


def tokens(*shape):
    return torch.randn(*shape, 8, generator=torch.Generator().manual_seed(4)) * 10 + torch.linspace(-50, 50, 8)


def by_hand(sae, x, t=None):
    pre = ((x - sae.mean) * sae.scale - sae.b_dec) @ sae.W_enc + sae.b_enc
    if t is not None:
        pre = pre + sae.b_time[t]
    match sae.config.activation:
        case "relu":
            return pre.clamp(min=0)
        case "topk":
            return torch.where(pre >= pre.topk(5).values[..., -1:], pre, 0).clamp(min=0)
        case "batchtopk":
            return torch.where(pre > 0.7, pre, 0)
        case "jumprelu":
            return torch.where(pre > sae.log_threshold.exp(), pre, 0)
        case "gated":
            magnitude = sae.r_mag.exp() * (pre - sae.b_enc) + sae.b_mag
            return torch.where(pre > 0, magnitude.clamp(min=0), 0)


@pytest.mark.parametrize("activation", ["relu", "topk", "batchtopk", "jumprelu", "gated"])
@pytest.mark.parametrize("t_edges", [(), (200, 500)])
def test_all_ways_to_encode_are_the_formula_and_survive_saving(tmp_path, activation, t_edges):
    sae, x = make(activation, t_edges), tokens(3, 5)
    t = torch.tensor([100, 200, 999])
    z = by_hand(sae, x, torch.tensor([0, 1, 2])[:, None] if t_edges else None)
    assert 0 < (z > 0).double().mean() < 0.7
    sae.save_pretrained(tmp_path)
    for one in (sae, SAE.from_pretrained(tmp_path)):
        assert one.config == sae.config
        torch.testing.assert_close(one.encode(x, t), z)
        code = one.encode_sparse(x, t)
        torch.testing.assert_close(code.dense(64).view(3, 5, 64), z)
        assert torch.equal(code.l0, (z > 0).sum(-1).flatten()) and (code.values > 0).all()
        torch.testing.assert_close(one.encode_latents(x, [7, 0, 63], t), z[..., [7, 0, 63]])
        torch.testing.assert_close(one(x, t), one.decode(z))


@pytest.mark.parametrize("activation", ["batchtopk", "jumprelu", "gated", "relu"])
def test_a_token_is_encoded_alike_alone_and_in_company(activation):
    sae, x = make(activation), tokens(20)
    torch.testing.assert_close(torch.cat([sae.encode(one[None]) for one in x]), sae.encode(x))


@pytest.mark.parametrize("activation", ["jumprelu", "gated"])
def test_a_fresh_sae_is_sparse_and_already_reconstructs(activation):
    """The closed forms behind the first threshold and bias; both lean on the normal tail, so d must not be small."""
    g = torch.Generator().manual_seed(5)  # not that of the atoms
    x = torch.randn(300, 256, generator=g) * torch.linspace(0.1, 3, 256)
    x = torch.nn.functional.normalize(x, dim=1) * 256**0.5
    sae = SAE(SAEConfig(256, 256 * 16, activation))
    z = sae.encode(x)
    assert (z > 0).sum(1).float().mean() < 1.2 * 256
    assert 0.85 < ((sae.decode(z) * x).sum() / x.square().sum()) < 1.15
    theta = initial_threshold(SAEConfig(8, 64, "jumprelu"))
    grid = torch.linspace(theta, 12, 200_001, dtype=torch.float64)
    kept = torch.trapezoid(grid.square() * (-grid.square() / 2).exp() / math.sqrt(2 * math.pi), grid)
    assert float(kept) == pytest.approx(8 / 64, rel=1e-6)
