"""Counts of (latent, label): how often a latent's map met an object of that label."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor


class Entries(NamedTuple):
    """Sparse counts, sorted by latent, then label: latent (n,), label (n,), counts (n,), all int64."""

    latent: Tensor
    label: Tensor
    counts: Tensor

    @classmethod
    def of(cls, rows: Iterable[tuple[int, int, int]]) -> Entries:
        """From (latent, label, count) in any order."""
        ordered = torch.tensor(sorted(rows), dtype=torch.int64).reshape(-1, 3)
        return cls(*(column.contiguous() for column in ordered.unbind(1)))

    def where(self, mask: Tensor) -> Entries:
        """The rows for which `mask` (n,) is true."""
        return Entries(self.latent[mask], self.label[mask], self.counts[mask])

    def total(self, latents: int) -> Tensor:
        """How many objects each latent met, (latents,) int64."""
        return torch.zeros(latents, dtype=torch.int64).index_add_(0, self.latent, self.counts)

    def mean(self, vectors: Tensor, known: Tensor, latents: int, repeats: bool) -> tuple[Tensor, Tensor]:
        """Each latent's mean of the labels' `vectors` (labels, d), and which have one: (latents, d), (latents,) bool.

        With `repeats` every object counts, else every label once. Labels without a vector, `known` (labels,) false,
        are left out.
        """
        rows = self.where(known[self.label])
        weight = rows.counts.float() if repeats else torch.ones(len(rows.counts))
        summed = torch.zeros(latents, vectors.shape[1]).index_add_(
            0, rows.latent, weight[:, None] * vectors[rows.label]
        )
        total = torch.zeros(latents).index_add_(0, rows.latent, weight)
        return summed / total.clamp_min(1e-12)[:, None], total > 0
