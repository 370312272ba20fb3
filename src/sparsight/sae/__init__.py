"""Sparse autoencoders: the model, its training, its metrics, and how it is kept and shared."""

from sparsight.sae.config import SAEConfig, TrainConfig
from sparsight.sae.metrics import evaluate_sae
from sparsight.sae.model import SAE
from sparsight.sae.sparsity import SparseCode
from sparsight.sae.train import input_statistics, train_sae

__all__ = ["SAE", "SAEConfig", "SparseCode", "TrainConfig", "evaluate_sae", "input_statistics", "train_sae"]
