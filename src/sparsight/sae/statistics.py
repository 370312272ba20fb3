"""The mean and the scale of activations, which an SAE keeps so that it can read them raw."""

from __future__ import annotations

import math

import torch

from sparsight.activations import TokenSource
from sparsight.errors import SparsightError
from sparsight.sae.config import TrainConfig
from sparsight.sae.job import Images

STATISTICS_TOKENS = 1 << 19


def input_statistics(store: TokenSource, config: TrainConfig, images: Images = None) -> tuple[torch.Tensor, float]:
    """The mean (d_in,) of the tokens and sqrt(d_in / E|x - mean|^2), in fp64 over half a million tokens at most.

    Raises `SparsightError` if all tokens are the same.
    """
    wanted = min(len(store.rows(images)) * store.spec.positions, STATISTICS_TOKENS)
    size = min(wanted, 8192)
    count, total, squares = 0, torch.zeros(store.spec.channels, dtype=torch.float64), 0.0
    shift = torch.zeros_like(total)  # the first batch's mean, so that a large mean does not cancel
    for batch in store.batches(size, seed=config.seed, memory_mb=config.memory_mb, images=images):
        x = batch.tokens[: wanted - count].double()
        shift = x.mean(0) if not count else shift
        x = x - shift
        count, total, squares = count + len(x), total + x.sum(0), squares + float(x.square().sum())
        if count == wanted:
            break
    variance = squares / count - float((total / count).square().sum())
    if variance <= 1e-12 * max(1.0, float(shift.square().sum())):
        raise SparsightError(f"all tokens of {store} are the same: there is nothing to learn")
    return (shift + total / count).float(), math.sqrt(store.spec.channels / variance)
