"""Products at the pattern of a code, and sums over it by latent: the sparse halves of a backward pass."""

from __future__ import annotations

import warnings
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from sparsight.sae.sparsity import SparseCode


class ByLatent:
    """The entries of a code in the order of their latents instead of their tokens."""

    def __init__(self, code: SparseCode, d_sae: int) -> None:
        self.order = torch.sort(code.indices.int(), stable=True).indices  # integers: a radix sort
        self.offsets = F.pad(torch.bincount(code.indices, minlength=d_sae).cumsum(0), (1, 0))
        self.tokens = code.tokens[self.order]

    def sum(self, values: Tensor, rows: Tensor, out: Tensor | None = None) -> Tensor:
        """Per latent, the sum over its entries of value * rows[token]: values (nnz,), rows (B, c), result (m, c)."""
        return SparseCode(self.tokens, values[self.order], self.offsets).matmul(rows, out)

    def total(self, values: Tensor, tokens: int) -> Tensor:
        """Per latent, the sum of its entries' values: (m,)."""
        return self.sum(values, values.new_ones(tokens, 1)).squeeze(1)


def along(code: SparseCode, g: Tensor, dec: Tensor) -> Tensor:
    """g @ dec.T at the pattern of the code: g (B, d) and dec (m, d) to (nnz,)."""
    _quiet_sparse()
    shape = (len(g), len(dec))
    pattern = torch.sparse_csr_tensor(code.offsets, code.indices, code.values, shape, check_invariants=False)
    return torch.sparse.sampled_addmm(pattern, g, dec.t(), beta=0.0).values()


def mean_square(x: Tensor) -> Tensor:
    """The mean (), of the squares of all entries, without a tensor of squares."""
    flat = x.reshape(-1)
    return torch.dot(flat, flat) / len(flat)


@cache
def _quiet_sparse() -> None:
    """Let torch say once, unheard, that its CSR tensors are in beta."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.eye(1).to_sparse_csr()
