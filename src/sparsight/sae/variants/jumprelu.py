"""JumpReLU: z = pre where pre > theta, else 0, each latent with a theta of its own, and an L0 penalty.

Rajamanoharan et al. 2024, "Jumping ahead: improving reconstruction fidelity with JumpReLU sparse autoencoders". The
jump has no derivative in theta. Its straight-through estimate (eq. 11-12) is a rectangle of width eps, the bandwidth:
    d z / d theta        = -(theta / eps) [|pre - theta| < eps / 2]
    d 1[z > 0] / d theta = -(1 / eps)     [|pre - theta| < eps / 2]
so entries up to eps / 2 below theta take part in a step although their latent is 0. log(theta) is what is trained.
Pre-activations have a deviation near 1 here (E|h|^2 = d_in); the paper's eps of 0.001 for E|h|^2 = 1 is about 0.05 then.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsight.parallel import ALONE, Team
from sparsight.sae.sparsity import SparseCode, above_code, join
from sparsight.sae.variants.base import Backward, Latents, Step, Variant


@dataclass(frozen=True)
class JumpReLU(Variant):
    """Own parameter: `log_threshold` (m,)."""

    bandwidth: float = 0.05
    own = ("log_threshold",)

    def dense(self, pre: Tensor, latents: Latents) -> Tensor:
        return torch.where(pre > latents["log_threshold"].exp(), pre, 0.0)

    def entries(self, pre: Tensor, latents: Latents) -> SparseCode:
        return above_code(pre, latents["log_threshold"].exp())

    def candidates(self, chunks: Iterable[Tensor], tokens: int, latents: Latents, team: Team = ALONE) -> SparseCode:
        lowest = latents["log_threshold"].exp() - self.bandwidth / 2
        return join([above_code(pre, lowest) for pre in chunks])

    def activate(self, pre: Tensor, at: Latents) -> Tensor:
        return pre * (pre > at["log_threshold"].exp())

    def backward(self, step: Step, dz: Tensor) -> Backward:
        pre, theta = step.pre.values, step.at["log_threshold"].exp()
        on = pre > theta
        inside = (pre - theta).abs() < self.bandwidth / 2
        dtheta = -(theta * dz + step.penalty) / self.bandwidth * inside
        dpre = dz * on
        return Backward(step.penalty * on.sum(), dpre, dpre, {"log_threshold": theta * dtheta})  # d theta = theta d log

    def reset(self, latents: Latents, index: Tensor, pre: Tensor) -> None:
        latents["log_threshold"].data[index] = (pre / 2).log()
