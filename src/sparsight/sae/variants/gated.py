"""Gated SAE: one product decides which latents are on, a rescaled copy of it how large they are.

Rajamanoharan et al. 2024, "Improving dictionary learning with gated sparse autoencoders", eq. 5-8. With s = W h:
    gate pi = s + b_enc,  magnitude mag = exp(r_mag) s + b_mag,  z = 1[pi > 0] max(mag, 0)
    loss = |x - x_hat(z)|^2 + lambda |max(pi, 0)| + |x - x_hat_frozen(max(pi, 0))|^2
The L1 penalty thus shrinks the gate and not the magnitude; the step has no derivative, so the gate learns from the last
two terms alone, and the last one leaves the decoder and b_dec as they are. Every entry has pi > 0.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from sparsight.parallel import ALONE, Team
from sparsight.sae.pattern import along, mean_square
from sparsight.sae.sparsity import SparseCode, join, relu_code
from sparsight.sae.variants.base import Backward, Latents, Step, Variant


class Gated(Variant):
    """Own parameters: `r_mag` and `b_mag`, (m,) each; b_enc is the gate's bias."""

    own = ("r_mag", "b_mag")

    def dense(self, pre: Tensor, latents: Latents) -> Tensor:
        return self.activate(pre, latents) * (pre > 0)

    def entries(self, pre: Tensor, latents: Latents) -> SparseCode:
        gate = relu_code(pre)
        z = self.activate(gate.values, {name: value[gate.indices] for name, value in latents.items()})
        return gate._replace(values=z).where(z > 0)

    def candidates(self, chunks: Iterable[Tensor], tokens: int, latents: Latents, team: Team = ALONE) -> SparseCode:
        return join([relu_code(pre) for pre in chunks])

    def activate(self, pre: Tensor, at: Latents) -> Tensor:
        return _magnitude(pre, at).relu()

    def backward(self, step: Step, dz: Tensor) -> Backward:
        gate, r_mag = step.pre.values, step.at["r_mag"].exp()
        error = step.pre.matmul(step.dec).add_(step.b_dec).sub_(step.x)  # of the gate's own reconstruction
        dgate = along(step.pre, error * (2 / error.numel()), step.dec) + step.penalty
        dmag = dz * (step.z > 0)
        scaled = gate.sub(step.at["b_enc"]).mul_(r_mag)  # exp(r_mag) s, hence d mag / d r_mag
        loss = step.penalty * gate.sum() + mean_square(error)
        return Backward(loss, dgate + dmag * r_mag, dgate, {"r_mag": dmag * scaled, "b_mag": dmag})

    def reset(self, latents: Latents, index: Tensor, pre: Tensor) -> None:
        latents["r_mag"].data[index] = 0.0
        latents["b_mag"].data[index] = latents["b_enc"].data[index]


def _magnitude(pre: Tensor, at: Latents) -> Tensor:
    return (pre - at["b_enc"]) * at["r_mag"].exp() + at["b_mag"]
