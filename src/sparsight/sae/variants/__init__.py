"""The activations of an SAE, one module each behind one face (`Variant`)."""

from __future__ import annotations

from sparsight.errors import unknown
from sparsight.sae.config import ACTIVATIONS
from sparsight.sae.variants.base import Backward, Latents, Step, Variant
from sparsight.sae.variants.batchtopk import BatchTopK
from sparsight.sae.variants.gated import Gated
from sparsight.sae.variants.jumprelu import JumpReLU
from sparsight.sae.variants.relu import ReLU
from sparsight.sae.variants.topk import TopK


def variant(activation: str, k: int = 32, bandwidth: float = 0.05) -> Variant:
    """The variant of this name; `k` is read by "topk" and "batchtopk", `bandwidth` by the training of "jumprelu".

    Raises `SparsightError` for a name that is not one of `ACTIVATIONS`.
    """
    made = {
        "relu": ReLU(),
        "topk": TopK(k),
        "batchtopk": BatchTopK(k),
        "jumprelu": JumpReLU(bandwidth),
        "gated": Gated(),
    }
    if activation not in made:
        raise unknown("activation", activation, ACTIVATIONS)
    return made[activation]


__all__ = ["ACTIVATIONS", "Backward", "Latents", "Step", "Variant", "variant"]
