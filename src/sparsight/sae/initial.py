"""Where an SAE starts: the bias or threshold that makes random atoms reconstruct, and atoms taken from the data."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from sparsight.sae.config import SAEConfig
from sparsight.sae.sparsity import CHUNK

if TYPE_CHECKING:
    from sparsight.sae.model import SAE

LEAST_THRESHOLD = 0.05  # log(theta) is what is trained, so theta cannot start at 0
SAMPLE = 1024  # tokens on which a start from data is calibrated


def initial_bias(config: SAEConfig) -> float:
    """The encoder bias at which a fresh ReLU SAE with tied random atoms reconstructs its input on average.

    For |h|^2 = d_in and random unit atoms w, h.w is standard normal whatever the data, and
    E[sum w ReLU(h.w - b)] = (d_sae / d_in) P(N > b) h: so P(N > b) = d_in / d_sae. It starts with L0 = d_in, a good
    picture, and a sparse (hence fast) first step, where b = 0 would overshoot d_sae / (2 d_in) times. A fresh gated SAE
    is a ReLU one.
    """
    if config.activation not in ("relu", "gated") or config.d_sae <= 2 * config.d_in:
        return 0.0
    return NormalDist().inv_cdf(config.d_in / config.d_sae)


def initial_threshold(config: SAEConfig) -> float:
    """The same for the theta of JumpReLU, which does not shrink what it keeps: theta phi(theta) + P(N > theta) = d_in / d_sae.

    The left side falls from 1/2 at 0, so it is found by bisection.
    """
    low, high = 0.0, 40.0
    for _ in range(60):
        theta = (low + high) / 2
        kept = theta * NormalDist().pdf(theta) + math.erfc(theta / math.sqrt(2)) / 2
        low, high = (theta, high) if kept > config.d_in / config.d_sae else (low, theta)
    return max(high, LEAST_THRESHOLD)


@torch.no_grad()
def start_from_data(sae: SAE, tokens: Tensor) -> None:
    """Point each latent's atom and encoder at a token of its own: normalised tokens (n, d_in), in random order.

    Where tokens run out (or have no length) the random atom stays. Atoms along data meet data at larger pre-activations
    than random ones, so the bias (or theta) is set anew to start with L0 = d_in on `SAMPLE` tokens at most, and the
    encoder is then scaled by <x_hat, x> / <x_hat, x_hat>, the factor that reconstructs them best.
    """
    chosen = tokens[: sae.config.d_sae]
    usable = chosen.norm(dim=1, keepdim=True) > 0
    sae.W_dec.data[: len(chosen)] = torch.where(usable, F.normalize(chosen), sae.W_dec[: len(chosen)])
    sae.W_enc.data.t().copy_(sae.W_dec.data)
    sample = tokens[-max(1, min(SAMPLE, CHUNK // sae.config.d_sae)) :]
    _set_density(sae, sample)
    h_hat = sae.encode_sparse(sae.denormalise(sample), t=0).matmul(sae.W_dec)
    factor = float((h_hat * sample).sum() / h_hat.square().sum().clamp_min(1e-12))
    if factor > 0:
        _scale(sae, factor)


def _set_density(sae: SAE, sample: Tensor) -> None:
    config, kept = sae.config, sae.config.k if sae.config.activation == "batchtopk" else sae.config.d_in
    if config.activation == "topk" or config.d_sae <= 2 * kept:
        return
    pre = (sample @ sae.W_enc).flatten()
    cut = max(float(pre.kthvalue(len(pre) - len(sample) * kept).values), LEAST_THRESHOLD)
    if config.activation == "batchtopk":
        sae.threshold.fill_(cut)  # of the first step alone; training puts its own in its place
    elif config.activation == "jumprelu":
        sae.log_threshold.data.fill_(math.log(cut))
    else:
        sae.b_enc.data.fill_(-cut)
        if "b_mag" in sae.own:
            sae.b_mag.data.fill_(-cut)


def _scale(sae: SAE, factor: float) -> None:
    """Multiply every latent by `factor`: what all activations do when their pre-activations and thresholds grow so."""
    sae.W_enc.data.mul_(factor)
    sae.b_enc.data.mul_(factor)
    if "b_mag" in sae.own:
        sae.b_mag.data.mul_(factor)
    if "log_threshold" in sae.own:
        sae.log_threshold.data.add_(math.log(factor))
    if sae.config.activation == "batchtopk":
        sae.threshold.mul_(factor)
