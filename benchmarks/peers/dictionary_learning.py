"""dictionary-learning, through `trainSAE`, logging every 100 steps."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from typing import Any

from dictionary_learning.trainers.batch_top_k import BatchTopKTrainer
from dictionary_learning.trainers.standard import StandardTrainer
from dictionary_learning.trainers.top_k import TopKTrainer
from dictionary_learning.training import trainSAE
from dictionary_learning.utils import load_dictionary
from peers.workload import Workload
from torch import Tensor

TRAINERS = {"topk": TopKTrainer, "relu": StandardTrainer, "batchtopk": BatchTopKTrainer}


def train(workload: Workload, steps: int, lr_factor: float, batches: Iterator[Tensor]) -> Callable[[Tensor], Tensor]:
    """Defaults, its own learning rate for k included; the ReLU trainer counts dead latents only where it resamples."""
    config: dict[str, Any] = {
        "trainer": TRAINERS[workload.activation],
        "steps": steps,
        "activation_dim": workload.d,
        "dict_size": workload.n,
        "layer": 0,
        "lm_name": "benchmark",
        "device": "cpu",
        "seed": 0,
        "warmup_steps": min(1000, steps // 10),
        "decay_start": steps * 4 // 5,
    }
    if workload.activation == "relu":
        config |= {"lr": 1e-3 * lr_factor, "sparsity_warmup_steps": min(2000, steps // 5)}
    else:
        lr = 2e-4 / (workload.n / 2**14) ** 0.5
        config |= {"k": workload.l0, "lr": lr * lr_factor, "threshold_start_step": min(1000, steps // 2)}
    with tempfile.TemporaryDirectory() as folder:
        trainSAE(batches, [config], steps, save_dir=folder, log_steps=100, verbose=True, device="cpu")
        return load_dictionary(f"{folder}/trainer_0", "cpu")[0]
