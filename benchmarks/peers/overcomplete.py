"""Overcomplete, through `train_sae`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from types import ModuleType

import torch
from peers.workload import Workload
from torch import Tensor

vision = ModuleType("torchvision")  # its image models ask for it; its SAEs do not, and torch here is a CPU build
vision.transforms = ModuleType("torchvision.transforms")
sys.modules |= {"torchvision": vision, "torchvision.transforms": vision.transforms}

from overcomplete.sae import SAE, BatchTopKSAE, TopKSAE, train_sae  # noqa: E402
from overcomplete.sae.losses import mse_l1  # noqa: E402


def train(workload: Workload, steps: int, lr_factor: float, batches: Iterator[Tensor]) -> Callable[[Tensor], Tensor]:
    """Defaults and Adam. AuxK is off, in its favour: it would explain the residual with half of all latents, always."""
    torch.manual_seed(0)
    sae = make(workload)
    adam = torch.optim.Adam(sae.parameters(), lr=5e-4 * lr_factor)
    warm = min(1000, steps // 10)
    schedule = torch.optim.lr_scheduler.LambdaLR(adam, lambda s: min((s + 1) / warm, 5 * (1 - s / steps), 1.0))
    loss = mse_l1 if workload.activation == "relu" else lambda x, x_hat, *_: (x - x_hat).square().mean()
    train_sae(sae, batches, loss, adam, schedule, nb_epochs=1)
    sae.eval()
    return lambda x: sae(x)[2]


def make(workload: Workload) -> SAE:
    """The SAE of the workload; its BatchTopK wants the k of the whole batch."""
    if workload.activation == "relu":
        return SAE(workload.d, workload.n)
    if workload.activation == "topk":
        return TopKSAE(workload.d, workload.n, top_k=workload.l0)
    return BatchTopKSAE(workload.d, workload.n, top_k=workload.l0 * workload.batch)
