"""The training loss of every variant in plain dense algebra, for autograd: what `training_step` is tested against.

Nothing here is shared with the sparse path but TopK's definition. It holds (B, m) tensors: for tests and small studies.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sparsight.sae.rule import Own, Rule, Weights
from sparsight.sae.sparsity import topk


def reference_loss(
    x: Tensor, w: Weights, rule: Rule, dead: Tensor | None = None, own: Own | None = None, time: Tensor | None = None
) -> Tensor:
    """The loss () of `training_step` for the same arguments, differentiable in `w` and `own`."""
    own = own or {}
    inputs = x - w.b_dec if rule.pre_bias else x
    shift = w.b_enc if time is None else w.b_enc + time @ own["b_time"]
    pre = inputs @ w.enc.t() + shift
    z, extra = _latents(pre, x, w, rule, own)
    ends = sorted({*rule.prefixes, len(w.dec)})
    loss = torch.stack([(z[:, :n] @ w.dec[:n] + w.b_dec - x).square().mean() for n in ends]).mean() + extra
    if rule.aux_k and dead is not None and dead.any():
        residual = (x - z @ w.dec - w.b_dec).detach()
        aux = topk(pre.masked_fill(~dead, -torch.inf), min(rule.aux_k, int(dead.sum()))) @ w.dec
        loss = loss + rule.aux_coefficient * (aux - residual).square().mean() / residual.square().mean()
    return loss


def _latents(pre: Tensor, x: Tensor, w: Weights, rule: Rule, own: Own) -> tuple[Tensor, Tensor]:
    """z (B, m) and what the variant adds to the loss."""
    if rule.activation == "batchtopk":
        z = topk(pre.reshape(1, -1), min(rule.k * len(pre), pre.numel())).view_as(pre)
    elif rule.activation == "jumprelu":
        theta = own["log_threshold"].exp()
        on = _Heaviside.apply(pre, theta, rule.bandwidth)
        return _Jump.apply(pre, theta, rule.bandwidth), rule.sparsity * on.mean()
    elif rule.activation == "gated":
        gate, magnitude = pre.relu(), own["r_mag"].exp() * (pre - w.b_enc) + own["b_mag"]
        frozen = gate @ w.dec.detach() + w.b_dec.detach()
        return (pre > 0) * magnitude.relu(), rule.sparsity * gate.mean() + (frozen - x).square().mean()
    else:
        z = pre.relu() if rule.activation == "relu" else topk(pre, rule.k)
    return z, rule.sparsity * z.abs().mean()


class _Heaviside(torch.autograd.Function):
    """1[pre > theta], with the rectangle's estimate for theta and none for pre (Rajamanoharan et al. 2024, eq. 12)."""

    @staticmethod
    def forward(ctx: Any, pre: Tensor, theta: Tensor, bandwidth: float) -> Tensor:
        ctx.save_for_backward(pre, theta)
        ctx.bandwidth = bandwidth
        return (pre > theta).to(pre.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor, None]:
        pre, theta = ctx.saved_tensors
        return None, (-_rectangle((pre - theta) / ctx.bandwidth) / ctx.bandwidth * grads[0]).sum(0), None


class _Jump(torch.autograd.Function):
    """pre 1[pre > theta], with the rectangle's estimate for theta (eq. 11)."""

    @staticmethod
    def forward(ctx: Any, pre: Tensor, theta: Tensor, bandwidth: float) -> Tensor:
        ctx.save_for_backward(pre, theta)
        ctx.bandwidth = bandwidth
        return pre * (pre > theta)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        pre, theta = ctx.saved_tensors
        step = -theta / ctx.bandwidth * _rectangle((pre - theta) / ctx.bandwidth)
        return (pre > theta) * grads[0], (step * grads[0]).sum(0), None


def _rectangle(u: Tensor) -> Tensor:
    return (u.abs() < 0.5).to(u.dtype)
