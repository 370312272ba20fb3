"""eai-sparsify, through `Trainer.fit`, which trains on what passes a hook of a language model."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator

import torch
from peers.workload import UnsupportedError, Workload
from sparsify import SparseCoderConfig, TrainConfig, Trainer
from torch import Tensor, nn


class Passing(nn.Module):
    """Plays the language model: each forward passes the next batch through the module `site`."""

    def __init__(self, d: int, batches: Iterator[Tensor]) -> None:
        super().__init__()
        self.site, self.batches, self.device = nn.Identity(), batches, torch.device("cpu")
        self.dummy_inputs = {"width": torch.zeros(1, 1, d)}

    @property
    def base_model(self) -> nn.Module:
        """Where the hookpoints are looked for."""
        return self

    def forward(self, tokens: Tensor | None = None, width: Tensor | None = None) -> Tensor:
        """One sequence that is the whole batch (1, B, d)."""
        return self.site(next(self.batches)[None] if width is None else width)


class Sequences:
    """Plays the data set: `steps` sequences of as many tokens as a batch has."""

    def __init__(self, steps: int, tokens: int) -> None:
        self.steps, self.item = steps, {"input_ids": torch.ones(tokens, dtype=torch.int64)}

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return self.item


def train(
    workload: Workload, steps: int, lr_factor: float, batches: Iterator[Tensor], optimizer: str = "signum"
) -> Callable[[Tensor], Tensor]:
    """Defaults (schedule-free SignSGD) and AuxK; its bf16 autocast and its Triton kernels are for CUDA only."""
    if workload.activation != "topk":
        raise UnsupportedError(f"sparsify has no {workload.activation}")
    base = {"signum": 5e-3, "adam": 2e-4}[optimizer]
    with tempfile.TemporaryDirectory() as folder:
        config = TrainConfig(
            SparseCoderConfig(num_latents=workload.n, k=workload.l0),
            batch_size=1,
            optimizer=optimizer,
            lr=base / (workload.n / 2**14) ** 0.5 * lr_factor,
            lr_warmup_steps=min(1000, steps // 10),
            auxk_alpha=1 / 32,
            hookpoints=["site"],
            save_every=steps + 1,
            save_dir=folder,
            log_to_wandb=False,
        )
        trainer = Trainer(config, Sequences(steps, workload.batch), Passing(workload.d, batches))
        trainer.fit()
    if optimizer == "signum":
        trainer.optimizers[0].eval()  # schedule-free: the averaged weights
    return lambda x: trainer.saes["site"](x).sae_out
