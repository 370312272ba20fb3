"""What is trained in the benchmark: the shapes, and tokens that are the same for every library."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

ACTIVE, NOISE = 20, 0.1  # directions in a token, and the share of its energy that is noise


class UnsupportedError(Exception):
    """The library has no such SAE."""


@dataclass(frozen=True)
class Workload:
    """One shape: `l0` is k where there is one, and for ReLU what the encoder bias is set for (0: the library's own)."""

    activation: str
    d: int
    n: int
    l0: int
    batch: int


WORKLOADS = {
    "W1": Workload("topk", 1280, 5120, 20, 4096),
    "W2": Workload("relu", 512, 16384, 100, 2048),
    "W2-init": Workload("relu", 512, 16384, 0, 2048),
    "W2b": Workload("relu", 512, 65536, 100, 1024),
    "W3": Workload("batchtopk", 1280, 10240, 32, 4096),
    "Q1": Workload("topk", 256, 2048, 20, 1024),
    "Q3": Workload("batchtopk", 256, 2048, 20, 1024),
}


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
