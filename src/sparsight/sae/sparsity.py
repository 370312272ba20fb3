"""Sparse codes: what an activation leaves of the pre-activations, without the zeros."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK = 1 << 23  # pre-activations held at a time: 32 MB in fp32
BLOCK = 1 << 20  # of a product that is written into given memory, at a time: 4 MB in fp32, which stay in the cache


class SparseCode(NamedTuple):
    """The codes of T tokens in CSR form: token i has latents `indices[offsets[i]:offsets[i + 1]]` with `values` > 0.

    indices (nnz,) int64, values (nnz,) float, offsets (T + 1,) int64: the arguments of `F.embedding_bag` with
    `include_last_offset=True`.
    """

    indices: Tensor
    values: Tensor
    offsets: Tensor

    def matmul(self, weight: Tensor, out: Tensor | None = None) -> Tensor:
        """The product with a dense (d_sae, c) matrix: (T, c), without making the code dense.

        `out` (T, c) receives it, a few rows at a time: an operating system gives new memory out page by page, which
        for a large product takes longer than the second copy.
        """
        if out is not None:
            return self._matmul_into(weight, out)
        values = self.values.to(weight.dtype)
        return F.embedding_bag(
            self.indices, weight, self.offsets, mode="sum", per_sample_weights=values, include_last_offset=True
        )

    def _matmul_into(self, weight: Tensor, out: Tensor) -> Tensor:
        rows = max(1, BLOCK // weight.shape[1])
        starts = [*range(0, len(out), rows), len(out)]
        at = self.offsets[starts].tolist()
        for (first, last), (low, high) in zip(pairwise(starts), pairwise(at), strict=True):
            part = SparseCode(self.indices[low:high], self.values[low:high], self.offsets[first : last + 1] - low)
            out[first:last] = part.matmul(weight)
        return out

    def dense(self, d_sae: int) -> Tensor:
        """The codes with their zeros, (T, d_sae)."""
        z = self.values.new_zeros(len(self.offsets) - 1, d_sae)
        return z.index_put((self.tokens, self.indices), self.values)

    def where(self, mask: Tensor) -> SparseCode:
        """The entries for which `mask` (nnz,) is true."""
        offsets = F.pad(mask.cumsum(0), (1, 0))[self.offsets]
        return SparseCode(self.indices[mask], self.values[mask], offsets)

    @property
    def tokens(self) -> Tensor:
        """The token of each entry, (nnz,) int64."""
        counts = self.offsets.diff()
        return torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts)

    @property
    def l0(self) -> Tensor:
        """Active latents of each token, (T,) int64."""
        return self.offsets.diff()


def topk(pre: Tensor, k: int) -> Tensor:
    """ReLU, then keep the `k` largest of the last dimension; the rest is 0. Same shape as `pre`."""
    kept = pre.relu().topk(k, dim=-1, sorted=False)
    return torch.zeros_like(pre).scatter(-1, kept.indices, kept.values)


def relu_code(pre: Tensor) -> SparseCode:
    """The code of (T, m) pre-activations under ReLU."""
    return above_code(pre, 0.0)


def above_code(pre: Tensor, bound: Tensor | float) -> SparseCode:
    """The entries of (T, m) pre-activations above `bound`: one number, or one for each latent, (m,)."""
    tokens, latents = pre.shape
    flat = nonzero((pre.detach() > bound).reshape(-1))
    starts = torch.arange(tokens + 1, device=pre.device) * latents
    return SparseCode(flat % latents, pre.reshape(-1)[flat], torch.searchsorted(flat, starts))


def topk_code(pre: Tensor, k: int) -> SparseCode:
    """The code of (T, m) pre-activations under TopK; entries that are not positive are left out, as ReLU says."""
    values, indices = _largest(pre, k)
    positive = values > 0
    offsets = F.pad(positive.sum(1).cumsum(0), (1, 0))
    return SparseCode(indices[positive], values[positive], offsets)


def _largest(pre: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The `k` largest of each row of (T, m), unsorted, and where they are: what `topk` gives, sooner on a CPU.

    A latent among the k largest lies in one of the k groups whose maxima are largest: groups are chosen first, and only
    what they hold is compared. The latents of a group lie m / size apart, so that the maxima are taken row against row.
    """
    tokens, latents = pre.shape
    size = _group_size(latents, k)
    if pre.device.type != "cpu" or size == 1:
        return pre.topk(k, dim=-1, sorted=False)
    groups = pre.detach().unflatten(1, (size, -1)).amax(1).topk(k, dim=-1, sorted=False).indices
    members = torch.arange(size).mul_(latents // size)
    candidates = (groups.unsqueeze(1) + members.unsqueeze(1)).view(tokens, -1)
    values, places = pre.gather(1, candidates).topk(k, dim=-1, sorted=False)
    return values, candidates.gather(1, places)


def _group_size(latents: int, k: int) -> int:
    """The power of two that makes maxima and candidates about equally many; 1 if that is hardly fewer than latents."""
    size = 1
    while 4 * size * size * k <= latents and latents % (2 * size) == 0:
        size *= 2
    return size if size >= 4 else 1


def join(codes: list[SparseCode]) -> SparseCode:
    """The codes of consecutive groups of tokens as one."""
    if len(codes) == 1:
        return codes[0]
    offsets = F.pad(torch.cat([code.l0 for code in codes]).cumsum(0), (1, 0))
    return SparseCode(torch.cat([c.indices for c in codes]), torch.cat([c.values for c in codes]), offsets)


def code_in_chunks(x: Tensor, d_sae: int, code: Callable[[Tensor], SparseCode]) -> SparseCode:
    """Apply `code` to a few rows of `x` (T, d) at a time, so that at most `CHUNK` pre-activations exist at once."""
    return join([code(rows) for rows in x.split(max(1, CHUNK // d_sae))])


def nonzero(mask: Tensor) -> Tensor:
    """The places (n,) int64 at which a mask (N,) is true, in order."""
    if mask.device.type == "cpu":  # numpy's is three times as fast as torch's on one core
        return torch.from_numpy(np.flatnonzero(mask.numpy()))
    return mask.nonzero().squeeze(1)
