"""One training step by hand: the loss and every gradient, touching only the active latents.

For B tokens, m latents, d channels and a code of density rho, autograd would do six dense products of B*m*d. Here only
the encoder is dense; the decoder, dz and both weight gradients cost rho as much, through the code's pattern and its
transpose. Above `dense_above` the dense products win for ReLU and are taken instead. `reference_loss` in `reference.py`
says what is computed, in plain dense algebra.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor

from sparsight.parallel import ALONE, Team
from sparsight.sae.matryoshka import Blocks, along_blocks, atom_gradients, block_flows, blocks_of, prefix_errors
from sparsight.sae.pattern import ByLatent, mean_square
from sparsight.sae.rule import Own, Rule, StepResult, Weights, Workspace
from sparsight.sae.sparsity import CHUNK, SparseCode, topk_code
from sparsight.sae.variants import Backward, Step


class _Inputs(NamedTuple):
    """What the encoder reads: tokens (B, d) less b_dec, the one-hot bin of t (B, bins) or None, and all parameters."""

    tokens: Tensor
    time: Tensor | None
    w: Weights
    own: Own

    def latents(self) -> dict[str, Tensor]:
        return {"b_enc": self.w.b_enc} | {name: value for name, value in self.own.items() if name != "b_time"}


@torch.no_grad()
def training_step(
    x: Tensor,
    w: Weights,
    rule: Rule,
    work: Workspace,
    dead: Tensor | None = None,
    own: Own | None = None,
    time: Tensor | None = None,
    team: Team = ALONE,
) -> StepResult:
    """The loss of a batch of normalised tokens (B, d) and its gradient for every parameter.

    loss = mean (x_hat - x)^2, averaged over prefixes, + the activation's penalty (+ AuxK on the latents where `dead`
    (m,) bool is true). `time` (B, bins) is the one-hot bin of t, for an SAE that has `b_time`. In a team, x holds this
    rank's part of the batch: loss and gradients are those of which the whole batch's are the mean over ranks.
    """
    inputs = _Inputs(x - w.b_dec if rule.pre_bias else x, time, w, own or {})
    pre = _encode(inputs, rule, work, team)
    if pre is None:
        return _dense_step(x, inputs, rule, work)
    # forward: entries -> latents -> the reconstruction of every prefix
    act, blocks = rule.variant, blocks_of(rule.prefixes, len(w.dec))
    at = {name: value[pre.indices] if value.ndim else value for name, value in inputs.latents().items()}
    code = pre._replace(values=act.activate(pre.values, at))
    errors = prefix_errors(code, x, w.dec, w.b_dec, blocks)
    # backward: reconstruction -> entries -> pre-activations -> parameters
    flows, scale = block_flows(errors), 2 / (x.numel() * len(errors))
    step = Step(x, w.dec, w.b_dec, pre, code.values, at, rule.sparsity / (len(x) * len(w.dec)))
    back = act.backward(step, along_blocks(code, flows, w.dec, blocks).mul_(scale))
    scaled = code._replace(values=code.values * scale)
    gradients, own_gradients = _gradients(scaled, back, flows, blocks, inputs, rule, work)
    gradients.b_dec.add_(flows[0].sum(0), alpha=scale)
    # what is reported, and AuxK
    squares = [mean_square(error) for error in errors]
    loss, error = sum(squares[1:], squares[0]) / len(squares) + back.loss, errors[-1]
    firing = code.indices[code.values > 0]
    fired = torch.bincount(firing, minlength=len(w.dec)) > 0
    if rule.aux_k and dead is not None and dead.any():
        loss = loss + _add_aux(gradients, own_gradients, error, inputs, rule, dead, team)
    active = torch.tensor(len(firing), device=x.device)
    return StepResult(loss, squares[-1], active, fired, error, gradients, own_gradients, act.threshold(pre, team))


def _gradients(
    code: SparseCode,
    back: Backward,
    flows: list[Tensor],
    blocks: Blocks,
    inputs: _Inputs,
    rule: Rule,
    work: Workspace | None = None,
) -> tuple[Weights, dict[str, Tensor]]:
    """The gradients of all parameters from those at the entries; of b_dec, its part through the encoder alone.

    `code` times `flows` is that of the decoder. Those of the matrices lie in `work`, if there is one: they last until the
    next step.
    """
    w, tokens = inputs.w, inputs.tokens
    by, size = ByLatent(code, len(w.dec)), len(inputs.tokens)
    own = {name: by.total(values, size) for name, values in back.own.items()}
    if inputs.time is not None:
        own["b_time"] = by.sum(back.pre, inputs.time).t().contiguous()
    b_enc = by.total(back.b_enc, size)
    through = b_enc if back.b_enc is back.pre else by.total(back.pre, size)
    b_dec = -(through @ w.enc) if rule.pre_bias else torch.zeros_like(w.b_dec)
    enc, dec = (work.keep("enc", w.enc), work.keep("dec", w.dec)) if work is not None else (None, None)
    atoms = atom_gradients(by, code.values, flows, blocks, dec)
    return Weights(by.sum(back.pre, tokens, enc), b_enc, atoms, b_dec), own


def _add_aux(
    gradients: Weights, own: dict[str, Tensor], error: Tensor, inputs: _Inputs, rule: Rule, dead: Tensor, team: Team
) -> Tensor:
    """AuxK (Gao et al. 2024): dead latents explain what is left over; its gradient reaches encoder and decoder."""
    index, w = dead.nonzero().squeeze(1), inputs.w
    pre = torch.addmm(w.b_enc[index], inputs.tokens, w.enc[index].t())
    if inputs.time is not None:
        pre.addmm_(inputs.time, inputs.own["b_time"][:, index])
    code = topk_code(pre, min(rule.aux_k, len(index)))
    code = code._replace(indices=index[code.indices])
    off = code.matmul(w.dec).add_(error)  # the residual is -error
    share = rule.aux_coefficient / team.mean(mean_square(error)).clamp_min(1e-12)
    whole, scale = blocks_of((), len(w.dec)), share * 2 / off.numel()
    dz = along_blocks(code, [off], w.dec, whole) * scale
    scaled = code._replace(values=code.values * scale)
    aux, aux_own = _gradients(scaled, Backward(share * 0, dz, dz, {}), [off], whole, inputs, rule)
    for gradient, extra in chain(zip(gradients, aux, strict=True), ((own[n], g) for n, g in aux_own.items())):
        gradient.add_(extra)
    return share * mean_square(off)


def _encode(inputs: _Inputs, rule: Rule, work: Workspace, team: Team) -> SparseCode | None:
    """The entries of a batch, or None if the first rows show that a ReLU code is too dense to be worth it."""
    chunks = _chunks(inputs, rule, work)
    if rule.activation == "relu" and not rule.prefixes:
        first = next(chunks)
        if _density(first) > rule.dense_above:
            return None
        chunks = chain([first], chunks)
    pre = rule.variant.candidates(chunks, len(inputs.tokens), inputs.latents(), team)
    return pre._replace(values=pre.values.to(inputs.tokens.dtype))


def _chunks(inputs: _Inputs, rule: Rule, work: Workspace) -> Iterator[Tensor]:
    """Pre-activations (rows, m), a few rows at a time, always in the same memory."""
    kind = torch.bfloat16 if rule.amp else inputs.tokens.dtype
    enc, bias = inputs.w.enc.to(kind).t(), inputs.w.b_enc.to(kind)
    for at in _slices(inputs):
        rows = inputs.tokens[at].to(kind)
        pre = torch.addmm(bias, rows, enc, out=work.get("pre", len(rows), inputs.w.enc, kind))
        if inputs.time is not None:
            pre.addmm_(inputs.time[at].to(kind), inputs.own["b_time"].to(kind))
        yield pre


def _slices(inputs: _Inputs) -> Iterator[slice]:
    size = max(1, CHUNK // len(inputs.w.enc))
    return (slice(at, min(at + size, len(inputs.tokens))) for at in range(0, len(inputs.tokens), size))


def _density(pre: Tensor) -> float:
    return float((pre[:32] > 0).float().mean())


def _dense_step(x: Tensor, inputs: _Inputs, rule: Rule, work: Workspace) -> StepResult:
    """The same for a ReLU code with many active latents: dense products, a few rows at a time."""
    w, own = inputs.w, {name: torch.zeros_like(value) for name, value in inputs.own.items()}
    error, grads = torch.empty_like(x), Weights(*(torch.zeros_like(v) for v in w))
    total, active = x.new_zeros(()), torch.zeros((), dtype=torch.int64, device=x.device)
    fired = torch.zeros(len(w.dec), dtype=torch.bool, device=x.device)
    penalty, scale = rule.sparsity / (len(x) * len(w.dec)), 2 / x.numel()
    exact = _chunks(inputs, replace(rule, amp=False), work)
    for rows, z in zip(_slices(inputs), exact, strict=True):
        on = z.relu_() > 0
        error[rows] = torch.addmm(w.b_dec, z, w.dec).sub_(x[rows])
        g = error[rows] * scale
        dz = torch.mm(g, w.dec.t(), out=work.get("dz", len(z), w.enc, x.dtype)).add_(penalty).mul_(on)
        grads.dec.addmm_(z.t(), g)
        grads.enc.addmm_(dz.t(), inputs.tokens[rows])
        grads.b_enc.add_(dz.sum(0))
        grads.b_dec.add_(g.sum(0))
        if inputs.time is not None:
            own["b_time"].addmm_(inputs.time[rows].t(), dz)
        total, active, fired = total + z.sum(), active + on.sum(), fired | on.any(0)
    if rule.pre_bias:
        grads.b_dec.sub_(grads.b_enc @ w.enc)
    mse = mean_square(error)
    return StepResult(mse + penalty * total, mse, active, fired, error, grads, own, x.new_zeros(()))
