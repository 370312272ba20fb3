"""TopK: ReLU, then the k largest of each token (Gao et al. 2024, "Scaling and evaluating sparse autoencoders", eq. 4)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from sparsight.sae.sparsity import SparseCode, topk, topk_code
from sparsight.sae.variants.base import Latents, Variant


@dataclass(frozen=True)
class TopK(Variant):
    """Which latents survive depends on all of them, so none can be computed alone."""

    k: int
    alone = False

    def dense(self, pre: Tensor, latents: Latents) -> Tensor:
        return topk(pre, self.k)

    def entries(self, pre: Tensor, latents: Latents) -> SparseCode:
        return topk_code(pre, self.k)
