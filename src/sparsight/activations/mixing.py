"""How well a batch is mixed: the entropy of its images and timesteps, beside what chance alone would give."""

from __future__ import annotations

import torch
from torch import Tensor

from sparsight.activations.shuffle import TokenBatch


def batch_entropy(batch: TokenBatch) -> dict[str, float]:
    """`image_entropy` and `t_entropy` in bits: 2 to its power is the effective number of images or timesteps in a batch."""
    return {f"{name}_entropy": _entropy(getattr(batch, name)) for name in ("image", "t")}


def _entropy(ids: Tensor) -> float:
    share = ids.unique(return_counts=True)[1].double() / len(ids)
    return max(0.0, -float((share * share.log2()).sum()))


def ideal_entropy(tokens: Tensor | list[int], batch_size: int) -> float:
    """The entropy in bits that a batch has on average when its tokens are drawn from all at once.

    `tokens` are the numbers of tokens of each image (or timestep). Exact: each count in a batch without replacement is
    hypergeometric. `batch_size` may not exceed the number of tokens.
    """
    counts, alike = torch.as_tensor(tokens).unique(return_counts=True)
    total = int((counts * alike).sum())
    expected = 0.0
    for count, times in zip(counts.tolist(), alike.tolist(), strict=True):
        k = torch.arange(max(1, batch_size + count - total), min(count, batch_size) + 1, dtype=torch.float64)
        ways = _log_choose(count, k) + _log_choose(total - count, batch_size - k)
        chance = (ways - _log_choose(total, torch.tensor(batch_size, dtype=torch.float64))).exp()
        expected -= times * float((chance * (k / batch_size) * (k / batch_size).log2()).sum())
    return max(0.0, expected)


def _log_choose(n: int, k: Tensor) -> Tensor:
    whole = torch.tensor(n + 1, dtype=torch.float64)
    return whole.lgamma() - (k + 1).lgamma() - (whole - k).lgamma()
