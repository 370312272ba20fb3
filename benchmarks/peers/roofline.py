"""What the core itself needs: a step in which only what nobody can avoid is done, at full speed.

The dense encoder product, the four sparse products as the reading of as many bytes, one read of the pre-activations,
fused Adam, and six passes over the decoder (projection, norm, clip). A model, not a bound: tables that fit into the
cache are read faster than this.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from peers.workload import UnsupportedError, Workload
from torch import Tensor

BLOCK = 64 << 20  # floats: 256 MB, more than any cache holds


def train(workload: Workload, steps: int, lr_factor: float, batches: Iterator[Tensor]) -> Callable[[Tensor], Tensor]:
    """Takes a batch, does the work, asks for the next."""
    if not workload.l0:
        raise UnsupportedError("there is no roofline where the L0 is the library's own")
    block, pre = torch.ones(BLOCK), torch.empty(workload.batch, workload.n)
    enc = torch.randn(workload.d, workload.n)
    weights = [torch.nn.Parameter(torch.randn(workload.n, workload.d)) for _ in range(2)]
    adam = torch.optim.Adam(weights, fused=True)
    for weight in weights:
        weight.grad = torch.ones_like(weight)
    for x in batches:
        torch.mm(x, enc, out=pre)
        read(block, floats(workload))
        adam.step()
    return lambda x: x


def floats(workload: Workload) -> int:
    """How many numbers a step must read besides the encoder product and Adam."""
    entries = workload.batch * workload.l0 * workload.d
    return 4 * entries + workload.batch * workload.n + 6 * workload.n * workload.d


def read(block: Tensor, count: int) -> None:
    """Read `count` floats from memory."""
    for start in range(0, count, len(block)):
        block[: count - start].sum()
