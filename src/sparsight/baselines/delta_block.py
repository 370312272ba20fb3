"""Asyrp's learned shift: a small convolutional net that reads a site's tokens and the timestep."""

from __future__ import annotations

from math import gcd
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparsight.diffusion.model import DiffusionModel
from sparsight.errors import SparsightError


class DeltaBlock(nn.Module):
    """1x1 convolution, plus a linear map of swish(time), group norm, swish, 1x1 convolution: tokens to their shift.

    The time embedding is the denoiser's own, as in the paper's code, and frozen. The block works in tokens (B, N, C): a
    1x1 convolution is a linear map of each.
    """

    def __init__(self, channels: int, times: int, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.first, self.last = nn.Linear(channels, channels), nn.Linear(channels, channels)
            self.time = nn.Linear(times, channels)
            self.norm = nn.GroupNorm(gcd(32, channels), channels, eps=1e-6)

    def forward(self, tokens: Tensor, time: Tensor) -> Tensor:
        """The shift (B, N, C) of tokens (B, N, C) at a timestep with the embedding `time` (times,)."""
        hidden = self.first(tokens) + self.time(F.silu(time))
        hidden = self.norm(hidden.transpose(1, 2)).transpose(1, 2)
        return self.last(F.silu(hidden))


@torch.no_grad()
def time_embedding(model: DiffusionModel, t: int) -> Tensor:
    """The denoiser's own embedding of timestep `t`: (times,) fp32. Raises `SparsightError` for one that shows none."""
    denoiser: Any = model.denoiser
    if not hasattr(denoiser, "time_proj") or not hasattr(denoiser, "time_embedding"):
        raise SparsightError(f"{model.name} shows no time embedding, which Asyrp's block reads")
    projected = denoiser.time_proj(torch.tensor([t], device=model.device)).to(model.dtype)
    return denoiser.time_embedding(projected)[0].float()
