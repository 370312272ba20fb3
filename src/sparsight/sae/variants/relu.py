"""ReLU with an L1 penalty: z = max(pre, 0), loss + lambda mean |z| (Bricken et al. 2023; CASL eq. 2-3)."""

from __future__ import annotations

from torch import Tensor

from sparsight.sae.sparsity import SparseCode, relu_code
from sparsight.sae.variants.base import Latents, Variant


class ReLU(Variant):
    """Every positive pre-activation is kept."""

    def dense(self, pre: Tensor, latents: Latents) -> Tensor:
        return pre.relu()

    def entries(self, pre: Tensor, latents: Latents) -> SparseCode:
        return relu_code(pre)
