"""PCA in place of an SAE: the control that asks what sparse latents add to plain directions of variance."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsight.errors import SparsightError
from sparsight.sae.sparsity import SparseCode, topk_code


@dataclass
class PcaCoder:
    """Codes tokens by their principal components, each split by its sign into two latents, of which the k largest stay.

    `mean` (C,), `axes` (C, m) unit columns, `scale` (m,) divides each component (1: not whitened). Latent i < m is
    component i where it is positive, latent m + i the same where it is negative. Its codes are read like an SAE's of
    the same k.
    """

    mean: Tensor
    axes: Tensor
    scale: Tensor
    k: int

    @classmethod
    def fit(cls, batches: Iterable[Tensor], components: int, k: int, whiten: bool = True) -> PcaCoder:
        """From batches of tokens (..., C). With `whiten` (default) components compete for the k places by how unusual
        they are, without it by how large; then the first few components win nearly all of them.
        """  # fmt: skip
        count, total, product = 0, torch.zeros(()), torch.zeros(())
        for batch in batches:
            x = batch.detach().double().cpu().flatten(0, -2)
            count, total, product = count + len(x), total + x.sum(0), product + x.T @ x
        if count < 2 or not 1 <= components <= len(total) or not 1 <= k <= 2 * components:
            raise SparsightError(
                f"PCA needs 2 tokens, 1 to {len(total) if count else 'C'} components, and k from 1 to twice as many, "
                f"not {count}, {components} and {k}"
            )
        mean = total / count
        values, axes = torch.linalg.eigh(product / count - torch.outer(mean, mean))
        values, axes = values.flip(0)[:components], axes.flip(1)[:, :components]
        scale = values.clamp_min(1e-12).sqrt() if whiten else torch.ones_like(values)
        return cls(mean.float(), axes.float().contiguous(), scale.float(), k)

    @property
    def latents(self) -> int:
        """Twice the components."""
        return 2 * len(self.scale)

    def encode_sparse(self, x: Tensor) -> SparseCode:
        """The code of tokens (..., C), as an SAE's `encode_sparse` gives it."""
        component = (x.flatten(0, -2).float() - self.mean) @ self.axes / self.scale
        return topk_code(torch.cat([component, -component], 1), self.k)
