"""BatchTopK: the B k largest of a batch, so that tokens may differ in L0 (Bussmann et al. 2024, "BatchTopK SAEs").

What a token keeps must not depend on its neighbours once training is over. So each step reports the value at which its
batch was cut; the running mean of that is saved as `threshold`, and inference keeps what lies above it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsight.parallel import ALONE, Team
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

    def candidates(self, chunks: Iterable[Tensor], tokens: int, latents: Latents, team: Team = ALONE) -> SparseCode:
        return largest_code(chunks, tokens, self.k * tokens, team)

    def threshold(self, pre: SparseCode, team: Team = ALONE) -> Tensor:
        """The least that was kept; 0 where the batch had fewer positive pre-activations than it may keep."""
        if team.count(len(pre.values)) < self.k * (len(pre.offsets) - 1) * team.size:
            return pre.values.new_zeros(())
        return team.least(pre.values.min() if len(pre.values) else pre.values.new_full((), torch.inf))


def largest_code(chunks: Iterable[Tensor], tokens: int, wanted: int, team: Team = ALONE) -> SparseCode:
    """The `wanted` largest positive entries of (tokens, m) pre-activations that come in chunks, exactly.

    The `wanted`-th largest of what has been seen is a bound that no later entry below can pass. So each chunk is read
    once against the bound, and only candidates are ever compared with each other: never more than 2 `wanted` and one
    chunk's. Of equal entries the first are kept.

    In a team, the entries of this rank that are among the `wanted` times `team.size` largest of all ranks.
    """
    everyone = wanted * team.size
    kept: list[tuple[Tensor, Tensor]] = []
    bound, rows, held, latents = 0.0, 0, 0, 1
    for pre in chunks:
        bound = bound if kept else float(team.least(_lower_bound(pre, wanted)))  # `wanted` on each rank lie above
        index = nonzero(pre.reshape(-1) > bound)
        latents = pre.shape[1]
        kept.append((index + rows * latents, _exact(pre.reshape(-1)[index])))
        rows, held = rows + len(pre), held + len(index)
        if held > 2 * everyone:
            kept, bound = _prune(kept, everyone)
            held = everyone
    kept, _ = _prune(kept, everyone, team)
    (index, values), starts = kept[0], torch.arange(tokens + 1, device=kept[0][0].device) * latents
    return SparseCode(index % latents, values, torch.searchsorted(index, starts))


def _lower_bound(pre: Tensor, wanted: int) -> Tensor:
    """A bound below the `wanted`-th largest entry: that of the maxima of `wanted` groups or more, and a little less."""
    size = pre.numel() // (4 * wanted)
    if size < 2:
        return pre.new_zeros((), dtype=torch.float64)
    maxima = _exact(pre.reshape(-1)[: pre.numel() // size * size].view(size, -1).amax(0))
    return (0.99 * _nth_largest(maxima, wanted).double()).clamp_min(0.0)


def _prune(
    kept: list[tuple[Tensor, Tensor]], wanted: int, team: Team = ALONE
) -> tuple[list[tuple[Tensor, Tensor]], float]:
    """All candidates as one group, those among the `wanted` largest of all ranks, and the least of them if it is full."""
    index, values = (torch.cat(parts) for parts in zip(*kept, strict=True))
    everyone = team.gather(values)  # in the order of ranks, which is that of the rows: ties fall as on one process
    if len(everyone) <= wanted:
        return [(index, values)], 0.0
    bound = _nth_largest(everyone, wanted)
    chosen, tied = everyone > bound, everyone == bound
    chosen |= tied & (tied.cumsum(0) <= wanted - chosen.sum())
    mine = chosen[team.place(len(values))]
    return [(index[mine], values[mine])], float(bound)


def _nth_largest(values: Tensor, n: int) -> Tensor:
    return values.kthvalue(len(values) - n + 1).values


def _exact(values: Tensor) -> Tensor:
    return values.float() if values.dtype == torch.bfloat16 else values  # selection is not written for bf16
