"""What a training is: tokens, configuration and folder, and the name that tells one training from another."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from sparsight.activations import TokenBatch, TokenSource
from sparsight.files import digest
from sparsight.sae.config import TrainConfig, without_later_defaults

Images = Tensor | list[int] | None
BOOKKEEPING = ("checkpoint_every", "log_every", "validate_every", "validation_tokens")  # do not change the weights


class Job(NamedTuple):
    """What is trained on what, and where it is kept."""

    store: TokenSource
    config: TrainConfig
    folder: Path | None
    images: Images
    validation: Images

    @property
    def identity(self) -> str:
        """Says whether a folder belongs to this training: everything that changes the weights."""
        chosen = None if self.images is None else sorted(torch.as_tensor(self.images).tolist())
        values = without_later_defaults(TrainConfig, asdict(self.config))
        return digest([{k: v for k, v in values.items() if k not in BOOKKEEPING}, self.store.digest, chosen])

    def batches(self, start: int) -> Iterator[TokenBatch]:
        """The batches of the steps after `start`."""
        return islice(self._read(self.config.batch_size, self.images, start), self.config.steps - start)

    def held_out(self, size: int) -> Iterator[TokenBatch]:
        """Batches of the validation images."""
        return self._read(size, self.validation)

    def some_tokens(self, size: int) -> Tensor:
        """So many raw tokens of the training (n, d_in), each at most once; fewer where the store has no more."""
        there = len(self.store.rows(self.images)) * self.store.spec.positions
        return next(self._read(min(there, size), self.images)).tokens

    def _read(self, size: int, images: Images, start: int = 0) -> Iterator[TokenBatch]:
        config = self.config
        return self.store.batches(size, seed=config.seed, memory_mb=config.memory_mb, start=start, images=images)
