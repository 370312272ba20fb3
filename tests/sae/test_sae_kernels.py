"""The hand-written step against autograd in fp64: loss, every gradient, both paths, with and without AuxK."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import sparsight.sae.kernels as kernels
from sparsight.sae.kernels import Rule, Weights, Workspace, training_step
from sparsight.sae.reference import reference_loss


def weights(d, m, bias=0.0, dtype=torch.float64, seed=0):
    g = torch.Generator().manual_seed(seed)
    shapes = [(m, d), (m,), (m, d), (d,)]
    enc, b_enc, dec, b_dec = (torch.randn(s, generator=g, dtype=dtype) * 0.5 for s in shapes)
    return Weights(enc, b_enc + bias, dec, b_dec)


def reference(x, w, rule, dead=None):
    leaves = Weights(*(v.clone().requires_grad_() for v in w))
    loss = reference_loss(x, leaves, rule, dead)
    return loss.detach(), torch.autograd.grad(loss, leaves)


def assert_equal(x, w, rule, dead=None, **tolerance):
    result = training_step(x, w, rule, Workspace(), dead)
    loss, gradients = reference(x, w, rule, dead)
    torch.testing.assert_close(result.loss, loss, **tolerance)
    for name, ours, theirs in zip(Weights._fields, result.gradients, gradients, strict=True):
        torch.testing.assert_close(ours, theirs, msg=lambda m, n=name: f"{n}: {m}", **tolerance)
    return result


@pytest.mark.parametrize("path", ["sparse", "dense"])
@pytest.mark.parametrize("pre_bias", [True, False])
def test_relu_step_is_autograd(path, pre_bias):
    x = torch.randn(40, 6, dtype=torch.float64)
    rule = Rule(pre_bias=pre_bias, sparsity=32.0, dense_above=1.0 if path == "sparse" else 0.0)
    result = assert_equal(x, weights(6, 50, bias=-1.0), rule)
    assert 0 < result.active < 40 * 50


@settings(max_examples=40, deadline=None)
@given(
    tokens=st.integers(1, 20),
    d=st.integers(1, 7),
    m=st.integers(1, 30),
    bias=st.sampled_from([-100.0, -2.0, 0.0, 3.0]),
    k=st.sampled_from([None, 1, 3]),
    dense_above=st.sampled_from([0.0, 0.3, 1.0]),
)
def test_any_size_and_density(tokens, d, m, bias, k, dense_above):
    """From a code with no entry at all to one with no zero."""
    x = torch.randn(tokens, d, dtype=torch.float64, generator=torch.Generator().manual_seed(tokens))
    rule = Rule("topk", min(k, m)) if k else Rule(sparsity=4.0, dense_above=dense_above)
    assert_equal(x, weights(d, m, bias), rule)


@pytest.mark.parametrize("dense_above", [0.0, 1.0])
def test_chunks_do_not_show(monkeypatch, dense_above):
    monkeypatch.setattr(kernels, "CHUNK", 7 * 50)
    x = torch.randn(40, 6, dtype=torch.float64)
    assert_equal(x, weights(6, 50, bias=-1.0), Rule(sparsity=2.0, dense_above=dense_above))


@pytest.mark.parametrize("pre_bias", [True, False])
@pytest.mark.parametrize("aux_k", [2, 100])
def test_auxk_reaches_encoder_and_decoder(pre_bias, aux_k):
    """The published trap: a fused encoder that drops the gradient of the auxiliary loss."""
    x, w = torch.randn(30, 6, dtype=torch.float64), weights(6, 50)
    dead = torch.zeros(50, dtype=torch.bool)
    dead[::4] = True
    w.b_enc[dead] -= 2.0  # they rarely win the TopK, as dead ones do
    rule = Rule("topk", 3, pre_bias, aux_k=aux_k, aux_coefficient=0.5)
    with_aux = assert_equal(x, w, rule, dead)
    without = training_step(x, w, replace(rule, aux_k=0), Workspace(), dead)
    for name in ("enc", "dec", "b_enc"):
        change = (getattr(with_aux.gradients, name) - getattr(without.gradients, name))[dead]
        assert change.abs().sum() > 0


def test_topk_gives_no_gradient_to_entries_that_relu_zeroed():
    x, w = torch.randn(10, 4, dtype=torch.float64), weights(4, 20, bias=-100.0)
    result = assert_equal(x, w, Rule("topk", 5))
    assert result.active == 0 and result.gradients.enc.abs().sum() == 0 and not result.fired.any()


def test_paths_agree_in_fp32_and_bookkeeping_is_right():
    x, w = torch.randn(300, 16), weights(16, 400, bias=-5.0, dtype=torch.float32)
    sparse = assert_equal(x, w, Rule(sparsity=32.0, dense_above=1.0), rtol=1e-4, atol=1e-5)
    dense = training_step(x, w, Rule(sparsity=32.0, dense_above=0.0), Workspace())
    z = ((x - w.b_dec) @ w.enc.t() + w.b_enc).relu()
    for result in (sparse, dense):
        assert result.active == (z > 0).sum() and torch.equal(result.fired, (z > 0).any(0))
        torch.testing.assert_close(result.error, z @ w.dec + w.b_dec - x, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(sparse.mse, dense.mse)


def test_bf16_encoding_stays_close():
    x, w = torch.randn(64, 16), weights(16, 100, bias=-3.0, dtype=torch.float32)
    exact = training_step(x, w, Rule(sparsity=1.0), Workspace())
    rounded = training_step(x, w, Rule(sparsity=1.0, amp=True), Workspace())
    assert rounded.gradients.enc.dtype == torch.float32
    assert (
        torch.nn.functional.cosine_similarity(exact.gradients.dec.flatten(), rounded.gradients.dec.flatten(), 0) > 0.99
    )


def test_the_workspace_is_reused_and_resized():
    work, w = Workspace(), weights(6, 50, bias=-1.0)
    for rows in (40, 10, 60):
        x = torch.randn(rows, 6, dtype=torch.float64)
        result = training_step(x, w, Rule(dense_above=0.0), work)
        torch.testing.assert_close(result.loss, reference_loss(x, w, Rule()))
