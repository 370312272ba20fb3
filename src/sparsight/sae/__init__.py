"""Sparse autoencoders: the model, its training, its metrics, and how it is kept and shared."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sparsight.sae.config import SAEConfig, TrainConfig
    from sparsight.sae.formats import detect_format, export_sae, import_sae
    from sparsight.sae.hub import list_saes
    from sparsight.sae.logs import open_logs
    from sparsight.sae.metrics import evaluate_sae
    from sparsight.sae.model import SAE, SparseAutoencoder
    from sparsight.sae.sparsity import SparseCode
    from sparsight.sae.statistics import input_statistics
    from sparsight.sae.train import train_sae

# Imported on first use: `sparsight train --help` reads the options from `sae.config` and must not wait for torch.
_HOMES = {
    "config": ("SAEConfig", "TrainConfig"),
    "formats": ("detect_format", "export_sae", "import_sae"),
    "hub": ("list_saes",),
    "logs": ("open_logs",),
    "metrics": ("evaluate_sae",),
    "model": ("SAE", "SparseAutoencoder"),
    "sparsity": ("SparseCode",),
    "statistics": ("input_statistics",),
    "train": ("train_sae",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "SAE",
    "SAEConfig",
    "SparseAutoencoder",
    "SparseCode",
    "TrainConfig",
    "detect_format",
    "evaluate_sae",
    "export_sae",
    "import_sae",
    "input_statistics",
    "list_saes",
    "open_logs",
    "train_sae",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'sparsight.sae' has no attribute {name!r}")
    return getattr(import_module(f"sparsight.sae.{_HOME_OF[name]}"), name)
