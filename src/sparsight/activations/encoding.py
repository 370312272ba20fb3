"""Tokens as they are stored: rounded to a storage type, some positions of each map, and the error that this made."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import torch
from torch import Tensor

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16, "int8": torch.int8}


class Encoded(NamedTuple):
    """Tokens (M, N, C) in their storage type; int8 has a `scale` (M, N) fp32: a token is `scale` * its whole numbers."""

    tokens: Tensor
    scale: Tensor | None = None

    def decode(self) -> Tensor:
        """The tokens in fp32, same shape."""
        tokens = self.tokens.float()
        return tokens if self.scale is None else tokens.mul_(self.scale.unsqueeze(-1))


def encode(tokens: Tensor, dtype: str) -> Encoded:
    """Round tokens (..., C) to a storage type. int8 scales each token by its own largest channel.

    One scale a token, since tokens of one image differ in norm by more than channels of one token do.
    """
    if dtype != "int8":
        return Encoded(tokens.to(DTYPES[dtype]))
    scale = tokens.float().abs().amax(-1) / 127
    steps = tokens.float() / scale.where(scale > 0, 1).unsqueeze(-1)
    return Encoded(steps.round_().to(torch.int8), scale)


class Spread:
    """Sums over tokens in fp64: the squared error of their storage type, and their squared deviation from the mean."""

    def __init__(self, channels: int) -> None:
        self.count, self.lost, self.squares = 0, 0.0, 0.0
        self.total = torch.zeros(channels, dtype=torch.float64)

    def add(self, tokens: Tensor, encoded: Encoded) -> None:
        """Count in tokens (M, N, C), given with what is stored of them."""
        x = tokens.float().flatten(0, -2)
        self.lost += _squares(x - encoded.decode().flatten(0, -2))
        self.count, self.total = self.count + len(x), self.total + x.sum(0, dtype=torch.float64)
        self.squares += _squares(x)

    def sums(self) -> list[float]:
        """[squared error, squared deviation from the mean token]."""
        return [self.lost, max(0.0, self.squares - float(self.total.square().sum()) / max(self.count, 1))]


def _squares(x: Tensor) -> float:
    """The sum of squares, summed in fp64 without a copy of `x` in fp64."""
    return float(torch.linalg.vector_norm(x, dtype=torch.float64)) ** 2


def generator(*seeds: int) -> torch.Generator:
    """A generator whose stream depends on all the numbers given, and on nothing else."""
    value = hashlib.sha256("/".join(map(str, seeds)).encode()).digest()[:8]
    return torch.Generator().manual_seed(int.from_bytes(value, "little") >> 1)


def kept_positions(image: Tensor, total: int, kept: int, seed: int) -> Tensor:
    """Which positions of each map are kept, (M, kept) int32, ascending: the same at every timestep of an image."""
    ids, place = image.unique(return_inverse=True)
    drawn = [torch.randperm(total, generator=generator(seed, i))[:kept].sort().values for i in ids.tolist()]
    return torch.stack(drawn)[place].int()
