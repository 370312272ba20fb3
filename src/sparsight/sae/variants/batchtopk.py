"""BatchTopK: the B k largest of a batch, so that tokens may differ in L0 (Bussmann et al. 2024, "BatchTopK SAEs").

What a token keeps must not depend on its neighbours once training is over. So each step reports the value at which its
batch was cut; the running mean of that is saved as `threshold`, and inference keeps what lies above it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsight.sae.sparsity import SparseCode, above_code, nonzero
from sparsight.sae.variants.base import Latents, Variant


@dataclass(frozen=True)
class BatchTopK(Variant):
    """Training cuts the batch, inference at the saved `threshold` ()."""

    k: int

    def dense(self, pre: Tensor, latents: Latents) -> Tensor:
        return torch.where(pre > latents["threshold"], pre, 0.0)

    def entries(self, pre: Tensor, latents: Latents) -> SparseCode:
        return above_code(pre, latents["threshold"])

    def candidates(self, chunks: Iterable[Tensor], tokens: int, latents: Latents) -> SparseCode:
        return largest_code(chunks, tokens, self.k * tokens)

    def threshold(self, pre: SparseCode) -> Tensor:
        """The least that was kept; 0 where the batch had fewer positive pre-activations than it may keep."""
        whole = len(pre.values) == self.k * (len(pre.offsets) - 1)
        return pre.values.min() if whole else pre.values.new_zeros(())


def largest_code(chunks: Iterable[Tensor], tokens: int, wanted: int) -> SparseCode:
    """The `wanted` largest positive entries of (tokens, m) pre-activations that come in chunks, exactly.

    The `wanted`-th largest of what has been seen is a bound that no later entry below can pass. So each chunk is read
    once against the bound, and only candidates are ever compared with each other: never more than 2 `wanted` and one
    chunk's. Of equal entries the first are kept.
    """
    kept: list[tuple[Tensor, Tensor]] = []
    bound, rows, held, latents = 0.0, 0, 0, 1
    for pre in chunks:
        bound = bound if kept else _lower_bound(pre, wanted)
        index = nonzero(pre.reshape(-1) > bound)
        latents = pre.shape[1]
        kept.append((index + rows * latents, _exact(pre.reshape(-1)[index])))
        rows, held = rows + len(pre), held + len(index)
        if held > 2 * wanted:
            kept, bound = _prune(kept, wanted)
            held = wanted
    kept, _ = _prune(kept, wanted)
    (index, values), starts = kept[0], torch.arange(tokens + 1, device=kept[0][0].device) * latents
    return SparseCode(index % latents, values, torch.searchsorted(index, starts))


def _lower_bound(pre: Tensor, wanted: int) -> float:
    """A bound below the `wanted`-th largest entry: that of the maxima of `wanted` groups or more, and a little less."""
    size = pre.numel() // (4 * wanted)
    if size < 2:
        return 0.0
    maxima = _exact(pre.reshape(-1)[: pre.numel() // size * size].view(size, -1).amax(0))
    return max(0.0, 0.99 * float(_nth_largest(maxima, wanted)))


def _prune(kept: list[tuple[Tensor, Tensor]], wanted: int) -> tuple[list[tuple[Tensor, Tensor]], float]:
    """All candidates as one group of at most `wanted`, in their order, and the least of them if it is full."""
    index, values = (torch.cat(parts) for parts in zip(*kept, strict=True))
    if len(values) <= wanted:
        return [(index, values)], 0.0
    bound = _nth_largest(values, wanted)
    chosen, tied = values > bound, values == bound
    chosen |= tied & (tied.cumsum(0) <= wanted - chosen.sum())
    return [(index[chosen], values[chosen])], float(bound)


def _nth_largest(values: Tensor, n: int) -> Tensor:
    return values.kthvalue(len(values) - n + 1).values


def _exact(values: Tensor) -> Tensor:
    return values.float() if values.dtype == torch.bfloat16 else values  # selection is not written for bf16
