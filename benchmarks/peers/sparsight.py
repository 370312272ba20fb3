"""sparsight, through `train_sae`: the whole of a step, logging included."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import torch
from peers.tokens import Mixture
from peers.workload import UnsupportedError, Workload
from torch import Tensor

import sparsight.sae.model as model
from sparsight.activations import TokenBatch
from sparsight.errors import SparsightError
from sparsight.sae import TrainConfig, train_sae


class Source:
    """Stands where a store stands: first a few tokens for the input statistics, then the batches of the training."""

    digest, folder = "benchmark", "benchmark"

    def __init__(self, workload: Workload, batches: Iterator[Tensor]) -> None:
        self.spec = SimpleNamespace(
            site="mid_block", mode="output", model="benchmark", model_hash="0", channels=workload.d, positions=1
        )
        self.left = [iter([Mixture(workload.d).batch(-1, 4096)]), batches]

    def rows(self, images: object) -> range:
        """As many tokens as the statistics read."""
        return range(4096)

    def batches(self, *_: object, **__: object) -> Iterator[TokenBatch]:
        """The tokens with made-up places."""
        for x in self.left.pop(0):
            nowhere = torch.zeros(len(x), dtype=torch.int64)
            yield TokenBatch(x, nowhere, nowhere, nowhere)


def train(workload: Workload, steps: int, lr_factor: float, batches: Iterator[Tensor]) -> Callable[[Tensor], Tensor]:
    """Defaults, with AuxK where there is a k; writes log lines and would write checkpoints."""
    if workload.activation == "relu" and workload.l0:
        # random unit atoms on tokens of |x|^2 = d give normal pre-activations: this bias makes the L0 a trained SAE has
        bias = float(torch.distributions.Normal(0.0, 1.0).icdf(torch.tensor(workload.l0 / workload.n)))
        model.initial_bias = lambda config: bias
    with tempfile.TemporaryDirectory() as folder:
        return train_sae(Source(workload, batches), config(workload, steps, lr_factor), folder, lambda *_: None)


def config(workload: Workload, steps: int, lr_factor: float) -> TrainConfig:
    """sparsight's defaults at the workload's shape."""
    sparse = {} if workload.activation == "relu" else {"k": workload.l0, "aux_k": workload.d // 2}
    times = {"steps": steps, "lr_warmup": min(1000, steps // 10), "lr_decay": steps // 5}
    try:
        return TrainConfig(
            d_sae=workload.n,
            activation=workload.activation,
            batch_size=workload.batch,
            lr=3e-4 * lr_factor,
            **sparse,
            **times,
        )
    except SparsightError as error:
        raise UnsupportedError(f"sparsight cannot train {workload.activation} here: {error}") from error
