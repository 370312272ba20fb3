"""The tokens of the benchmark: a mixture of which everything is known, the same for every library."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

ACTIVE, NOISE = 20, 0.1  # directions in a token, and the share of its energy that is noise


class Mixture:
    """Tokens made of a few of 4d unit directions and noise, centred, with E|x|^2 = d. Batch i depends on i alone."""

    def __init__(self, d: int, seed: int = 0) -> None:
        self.seed = seed
        self.directions = F.normalize(torch.randn(4 * d, d, generator=torch.Generator().manual_seed(seed)), dim=1)
        self.mean = ACTIVE * self.directions.mean(0)
        energy = ACTIVE * (1 + 1 / 12)  # of coefficients drawn from [0.5, 1.5]; random directions hardly overlap
        self.noise = (NOISE / (1 - NOISE) * energy / d) ** 0.5
        self.scale = (d * (1 - NOISE) / energy) ** 0.5

    def batch(self, index: int, size: int) -> Tensor:
        """The tokens (size, d) of batch `index`."""
        rng = torch.Generator().manual_seed((self.seed + 1) * 1_000_003 + index)
        chosen = torch.randint(len(self.directions), (size, ACTIVE), generator=rng)
        weights = torch.rand(size, ACTIVE, generator=rng) + 0.5
        x = F.embedding_bag(chosen, self.directions, mode="sum", per_sample_weights=weights)
        return x.sub_(self.mean).add_(torch.randn(x.shape, generator=rng), alpha=self.noise).mul_(self.scale)
