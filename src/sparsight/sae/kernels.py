"""One training step by hand: the loss and every gradient, touching only the active latents.

For B tokens, m latents, d channels and a code of density rho, autograd would do six dense products of B*m*d. Here only
the encoder is dense; the decoder, dz and both weight gradients cost rho as much, through the code's pattern and its
transpose. Above `dense_above` the dense products win and are taken instead. `reference_loss` says what is computed.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from functools import cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from sparsight.sae.sparsity import CHUNK, SparseCode, join, relu_code, topk, topk_code


class Weights(NamedTuple):
    """What is trained (or its gradients): enc (m, d) = W_enc transposed, b_enc (m,), dec (m, d), b_dec (d,)."""

    enc: Tensor
    b_enc: Tensor
    dec: Tensor
    b_dec: Tensor


@dataclass(frozen=True)
class Rule:
    """The loss: `k` None is ReLU; `sparsity` is lambda; AuxK acts on dead latents if `aux_k` > 0; see `TrainConfig`."""

    k: int | None = None
    pre_bias: bool = True
    sparsity: float = 0.0
    aux_k: int = 0
    aux_coefficient: float = 1 / 32
    amp: bool = False
    dense_above: float = 0.08


class StepResult(NamedTuple):
    """Of one step, all over B tokens: the losses (), the summed L0 (), fired (m,) bool, the error x_hat - x (B, d)."""

    loss: Tensor
    mse: Tensor
    active: Tensor
    fired: Tensor
    error: Tensor
    gradients: Weights


@dataclass
class Workspace:
    """Buffers of pre-activations that are reused from step to step."""

    tensors: dict[str, Tensor] = field(default_factory=dict)

    def get(self, name: str, rows: int, like: Tensor, dtype: torch.dtype) -> Tensor:
        """An uninitialised (rows, m) buffer, `like` being (m, d)."""
        held = self.tensors.get(name)
        if held is None or held.shape != (max(rows, len(held)), len(like)) or held.dtype != dtype:
            held = self.tensors[name] = like.new_empty(rows, len(like), dtype=dtype)
        return held[:rows]


@torch.no_grad()
def training_step(x: Tensor, w: Weights, rule: Rule, work: Workspace, dead: Tensor | None = None) -> StepResult:
    """The loss of a batch of normalised tokens (B, d) and its gradient for every weight.

    loss = mean (x_hat - x)^2 + lambda mean |z| (+ AuxK on the latents where `dead` (m,) bool is true).
    """
    inputs = x - w.b_dec if rule.pre_bias else x
    code = _encode(inputs, w, rule, work)
    if code is None:
        return _dense_step(x, inputs, w, rule, work)
    error = code.matmul(w.dec).add_(w.b_dec).sub_(x)
    mse, active, penalty = error.square().mean(), code.offsets[-1], rule.sparsity / (len(x) * len(w.dec))
    g = error * (2 / error.numel())
    gradients = _gradients(code, g, inputs, w, rule, penalty)
    gradients.b_dec.add_(g.sum(0))
    loss = mse + penalty * code.values.sum()
    fired = torch.bincount(code.indices, minlength=len(w.dec)) > 0
    if rule.aux_k and dead is not None and dead.any():
        loss = loss + _add_aux(gradients, error, inputs, w, rule, dead)
    return StepResult(loss, mse, active, fired, error, gradients)


def _gradients(code: SparseCode, g: Tensor, inputs: Tensor, w: Weights, rule: Rule, penalty: float) -> Weights:
    """The gradient of <g, code @ dec> + penalty * sum(code), given that `inputs` made the code."""
    dz = _sampled(code, g, w.dec) + penalty
    order = torch.sort(code.indices.int(), stable=True).indices  # integers: a radix sort
    offsets = F.pad(torch.bincount(code.indices, minlength=len(w.dec)).cumsum(0), (1, 0))
    tokens = code.tokens[order]
    to_dec = SparseCode(tokens, code.values[order], offsets)
    to_pre = SparseCode(tokens, dz[order], offsets)
    b_enc = to_pre.matmul(torch.ones_like(inputs[:, :1])).squeeze(1)
    b_dec = -(b_enc @ w.enc) if rule.pre_bias else torch.zeros_like(w.b_dec)
    return Weights(to_pre.matmul(inputs), b_enc, to_dec.matmul(g), b_dec)


def _add_aux(gradients: Weights, error: Tensor, inputs: Tensor, w: Weights, rule: Rule, dead: Tensor) -> Tensor:
    """AuxK (Gao et al. 2024): dead latents explain what is left over; its gradient reaches encoder and decoder."""
    index = dead.nonzero().squeeze(1)
    pre = torch.addmm(w.b_enc[index], inputs, w.enc[index].t())
    code = topk_code(pre, min(rule.aux_k, len(index)))
    code = code._replace(indices=index[code.indices])
    off = code.matmul(w.dec).add_(error)  # the residual is -error
    share = rule.aux_coefficient / error.square().mean().clamp_min(1e-12)
    aux = _gradients(code, off * (share * 2 / off.numel()), inputs, w, rule, 0.0)
    for gradient, extra in zip(gradients, aux, strict=True):
        gradient.add_(extra)
    return share * off.square().mean()


def _encode(inputs: Tensor, w: Weights, rule: Rule, work: Workspace) -> SparseCode | None:
    """The code of a batch, or None if the first rows show that a ReLU code is too dense to be worth it."""
    kind = torch.bfloat16 if rule.amp else inputs.dtype
    enc, bias = w.enc.to(kind).t(), w.b_enc.to(kind)
    codes: list[SparseCode] = []
    for rows in inputs.to(kind).split(max(1, CHUNK // len(w.enc))):
        pre = torch.addmm(bias, rows, enc, out=work.get("pre", len(rows), w.enc, kind))
        if rule.k is None and not codes and _density(pre) > rule.dense_above:
            return None
        code = relu_code(pre) if rule.k is None else topk_code(pre, rule.k)
        codes.append(code._replace(values=code.values.to(inputs.dtype)))
    return join(codes)


def _density(pre: Tensor) -> float:
    return float((pre[:32] > 0).float().mean())


def _dense_step(x: Tensor, inputs: Tensor, w: Weights, rule: Rule, work: Workspace) -> StepResult:
    """The same for a ReLU code with many active latents: dense products, a few rows at a time."""
    error, grads = torch.empty_like(x), Weights(*(torch.zeros_like(v) for v in w))
    total, active = x.new_zeros(()), torch.zeros((), dtype=torch.int64, device=x.device)
    fired = torch.zeros(len(w.dec), dtype=torch.bool, device=x.device)
    penalty, scale = rule.sparsity / (len(x) * len(w.dec)), 2 / x.numel()
    for part in torch.arange(len(x), device=x.device).split(max(1, CHUNK // len(w.dec))):
        rows = slice(int(part[0]), int(part[-1]) + 1)
        z = torch.addmm(w.b_enc, inputs[rows], w.enc.t(), out=work.get("pre", len(part), w.enc, x.dtype)).relu_()
        on = z > 0
        error[rows] = torch.addmm(w.b_dec, z, w.dec).sub_(x[rows])
        g = error[rows] * scale
        dz = torch.mm(g, w.dec.t(), out=work.get("dz", len(part), w.enc, x.dtype)).add_(penalty).mul_(on)
        grads.dec.addmm_(z.t(), g)
        grads.enc.addmm_(dz.t(), inputs[rows])
        grads.b_enc.add_(dz.sum(0))
        grads.b_dec.add_(g.sum(0))
        total, active, fired = total + z.sum(), active + on.sum(), fired | on.any(0)
    if rule.pre_bias:
        grads.b_dec.sub_(grads.b_enc @ w.enc)
    mse = error.square().mean()
    return StepResult(mse + penalty * total, mse, active, fired, error, grads)


def _sampled(code: SparseCode, g: Tensor, dec: Tensor) -> Tensor:
    """(g @ dec.T) at the pattern of the code: (nnz,)."""
    _quiet_sparse()
    shape = (len(g), len(dec))
    pattern = torch.sparse_csr_tensor(code.offsets, code.indices, code.values, shape, check_invariants=False)
    return torch.sparse.sampled_addmm(pattern, g, dec.t(), beta=0.0).values()


@cache
def _quiet_sparse() -> None:
    """Let torch say once, unheard, that its CSR tensors are in beta."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.eye(1).to_sparse_csr()


def reference_loss(x: Tensor, w: Weights, rule: Rule, dead: Tensor | None = None) -> Tensor:
    """The same loss in plain dense algebra, for autograd: what `training_step` is tested against."""
    inputs = x - w.b_dec if rule.pre_bias else x
    pre = inputs @ w.enc.t() + w.b_enc
    z = pre.relu() if rule.k is None else topk(pre, rule.k)
    x_hat = z @ w.dec + w.b_dec
    loss = (x_hat - x).square().mean() + rule.sparsity * z.abs().mean()
    if rule.aux_k and dead is not None and dead.any():
        residual = (x - x_hat).detach()
        aux = topk(pre.masked_fill(~dead, -torch.inf), min(rule.aux_k, int(dead.sum()))) @ w.dec
        loss = loss + rule.aux_coefficient * (aux - residual).square().mean() / residual.square().mean()
    return loss
