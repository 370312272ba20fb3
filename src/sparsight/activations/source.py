"""What training asks of its tokens, whether they lie on disk (`Store`) or are made as they are read (`LiveStore`)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from torch import Tensor

from sparsight.activations.shuffle import TokenBatch
from sparsight.activations.spec import StoreSpec


class TokenSource(Protocol):
    """Tokens of one stream. `spec` says what they are, `digest` identifies them; `str()` names them in messages."""

    spec: StoreSpec
    digest: str

    def rows(self, images: Tensor | list[int] | None = None) -> Tensor:
        """The numbers of the maps that belong to `images` (all if None), int64."""
        ...

    def batches(
        self,
        batch_size: int,
        *,
        seed: int,
        memory_mb: float = 256,
        start: int = 0,
        images: Tensor | list[int] | None = None,
    ) -> Iterator[TokenBatch]:
        """Endless shuffled batches from batch number `start`: the number is the whole position of a reader."""
        ...
