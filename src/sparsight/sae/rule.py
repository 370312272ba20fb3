"""What goes into a training step and what comes out: weights, the rule of the loss, results, reused memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from sparsight.sae.variants import Variant, variant


class Weights(NamedTuple):
    """What every SAE trains (or its gradients): enc (m, d) = W_enc transposed, b_enc (m,), dec (m, d), b_dec (d,)."""

    enc: Tensor
    b_enc: Tensor
    dec: Tensor
    b_dec: Tensor


Own = Mapping[str, Tensor]  # what only some train: a variant's (m,) parameters by name, and b_time (bins, m)


@dataclass(frozen=True)
class Rule:
    """The loss: `sparsity` is lambda; AuxK acts on dead latents if `aux_k` > 0; for the rest see `TrainConfig`."""

    activation: str = "relu"
    k: int = 32
    pre_bias: bool = True
    sparsity: float = 0.0
    aux_k: int = 0
    aux_coefficient: float = 1 / 32
    amp: bool = False
    dense_above: float = 0.08
    bandwidth: float = 0.05
    prefixes: tuple[int, ...] = ()

    @property
    def variant(self) -> Variant:
        """The activation."""
        return variant(self.activation, self.k, self.bandwidth)


class StepResult(NamedTuple):
    """Of one step, all over B tokens: the losses (), the summed L0 (), fired (m,) bool, the error x_hat - x (B, d).

    `own` are the gradients of the own parameters, by name; `threshold` () is where BatchTopK cut the batch.
    """

    loss: Tensor
    mse: Tensor
    active: Tensor
    fired: Tensor
    error: Tensor
    gradients: Weights
    own: dict[str, Tensor]
    threshold: Tensor


@dataclass
class Workspace:
    """Buffers that are reused from step to step: pre-activations and, on a CPU, the gradients of both matrices."""

    tensors: dict[str, Tensor] = field(default_factory=dict)

    def get(self, name: str, rows: int, like: Tensor, dtype: torch.dtype) -> Tensor:
        """An uninitialised (rows, m) buffer, `like` being (m, d)."""
        held = self.tensors.get(name)
        if held is None or held.shape != (max(rows, len(held)), len(like)) or held.dtype != dtype:
            held = self.tensors[name] = like.new_empty(rows, len(like), dtype=dtype)
        return held[:rows]

    def keep(self, name: str, like: Tensor) -> Tensor | None:
        """A buffer in the form of `like`; None on a GPU, whose allocator keeps memory by itself."""
        if like.device.type != "cpu":
            return None
        if name not in self.tensors or self.tensors[name].shape != like.shape or self.tensors[name].dtype != like.dtype:
            self.tensors[name] = torch.empty_like(like)
        return self.tensors[name]
