"""SAELens, through `SAETrainer.fit`, with its logging on and wandb disabled."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import sae_lens as lens
import wandb
from peers.workload import UnsupportedError, Workload
from sae_lens.config import LoggingConfig, SAETrainerConfig
from sae_lens.training.sae_trainer import SAETrainer
from torch import Tensor


def train(
    workload: Workload, steps: int, lr_factor: float, batches: Iterator[Tensor], sparse: bool = False
) -> Callable[[Tensor], Tensor]:
    """Defaults; `sparse`: its COO activations, which on a CPU run only without the rescaling by decoder norms."""
    wandb.init(mode="disabled")
    sae = make(workload, sparse)
    times = {"lr_warm_up_steps": min(1000, steps // 10), "lr_decay_steps": steps // 5}
    config = SAETrainerConfig(
        total_training_samples=steps * workload.batch,
        train_batch_size_samples=workload.batch,
        lr=3e-4 * lr_factor,
        lr_end=3e-4 * lr_factor,
        logger=LoggingConfig(log_to_wandb=True),
        **times,
    )
    return SAETrainer(config, sae, batches).fit()


def make(workload: Workload, sparse: bool) -> lens.TrainingSAE:
    """The SAE of the workload."""
    size = {"d_in": workload.d, "d_sae": workload.n}
    if workload.activation == "relu" and not sparse:
        return lens.StandardTrainingSAE(lens.StandardTrainingSAEConfig(**size))
    if workload.activation == "topk":
        coo = {"use_sparse_activations": True, "rescale_acts_by_decoder_norm": False} if sparse else {}
        return lens.TopKTrainingSAE(lens.TopKTrainingSAEConfig(**size, k=workload.l0, **coo))
    if workload.activation == "batchtopk" and not sparse:
        return lens.BatchTopKTrainingSAE(lens.BatchTopKTrainingSAEConfig(**size, k=workload.l0))
    raise UnsupportedError(f"SAELens has no sparse activations for {workload.activation}")
