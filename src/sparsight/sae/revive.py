"""Resampling: bringing dead latents back to life, on tokens that the SAE reconstructs badly."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sparsight.sae.checkpoint import TrainState


@torch.no_grad()
def revive(state: TrainState, inputs: Tensor, error: Tensor, dead: Tensor, generator: torch.Generator) -> Tensor:
    """Move dead latents onto badly reconstructed tokens; returns the indices (n,) of those that were moved.

    `inputs` (B, d) is what the encoder reads, `error` (B, d) = x_hat - x, `dead` (m,) bool. Tokens are drawn in
    proportion to |error|^2, each at most once and an eighth of the batch at most, since several latents on one token
    would overshoot together. A moved latent points along its token's residual r, has the mean length of the living
    (also the decoder's, unless that is 1), and the bias at which its pre-activation there is |r| / 2 times that length:
    it fires on its token, and on those that share more than half of its residual. Adam forgets it. "jumprelu" and
    "gated" leave out tokens where that bias would be positive, whose latent would fire on nearly everything.
    """
    count = min(int(dead.sum()), max(1, len(inputs) // 8))
    chance = error.square().sum(1).cpu().double()
    if state.sae.config.activation != "relu":  # ReLU trainings stay as they were
        chance[((error * (inputs + error / 2)).sum(1) > 0).cpu()] = 0
    if count == 0 or int((chance > 0).sum()) < count:
        return dead.nonzero().squeeze(1)[:0]
    index = dead.nonzero().squeeze(1)[:count]
    token = torch.multinomial(chance, count, generator=generator).to(inputs.device)
    residual = -error[token]
    way, size = F.normalize(residual, dim=1), residual.norm(dim=1)
    length = _mean_length(state.weights.enc, ~dead)
    state.weights.enc.data[index] = way * length
    state.weights.b_enc.data[index] = length * (size / 2 - (way * inputs[token]).sum(1))
    state.sae.variant.reset({"b_enc": state.weights.b_enc, **state.own}, index, length * size / 2)
    if "b_time" in state.own:
        state.own["b_time"].data[:, index] = 0.0
    unit = state.sae.config.decoder_norm == "unit"
    state.weights.dec.data[index] = way if unit else way * _mean_length(state.weights.dec, ~dead)
    _forget(state, index)
    return index


def _mean_length(rows: Tensor, alive: Tensor) -> Tensor:
    return rows[alive].norm(dim=1).mean() if alive.any() else rows.new_ones(())


def _forget(state: TrainState, index: Tensor) -> None:
    for name, weight in state.trained().items():
        rows = (slice(None), index) if name == "b_time" else index
        for moment in ("exp_avg", "exp_avg_sq"):
            if name != "b_dec" and moment in state.adam.state[weight]:
                state.adam.state[weight][moment][rows] = 0
    state.since[index] = 0
