"""Identity: does the edited image still show the same individual, by the embedding of a recognition network.

Source: CASL reports ArcFace similarity, the cosine of two face embeddings. Any embedding serves; its name goes with
the number.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from sparsight.errors import SparsightError
from sparsight.metrics.arrays import images
from sparsight.metrics.clip import cosine


class IdentitySimilarity:
    """Cosine of the embeddings of two image batches, with the plain `name` to print beside its numbers.

    `embed` maps images (n, 3, H, W) in [-1, 1] to embeddings (n, d). 1 is the same individual; where "another
    individual" lies depends on the embedding, so report the mean over pairs of different people next to it.
    """

    def __init__(self, name: str, embed: Callable[[Tensor], Tensor]):
        self.name = name
        self._embed = embed

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        """Images (n, 3, H, W) twice -> (n,) in [-1, 1], differentiable. Raises `SparsightError` on wrong shapes."""
        images(a, b)
        first, second = self._embed(a), self._embed(b)
        if first.ndim != 2 or len(first) != len(a):
            raise SparsightError(f"{self.name} must embed images as (n, d), but gave {tuple(first.shape)}")
        return cosine(first, second)

    def __repr__(self) -> str:
        return f"IdentitySimilarity({self.name!r})"


def identity_similarity(embedding_a: Tensor, embedding_b: Tensor) -> Tensor:
    """Cosine of two batches of identity embeddings, (n, d) twice -> (n,), in [-1, 1]."""
    return cosine(embedding_a, embedding_b)
