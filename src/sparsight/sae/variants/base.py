"""The face of every activation: what it makes of pre-activations, and how its gradient flows back at a few entries.

An *entry* is a (token, latent) pair that takes part in a step, by its value or by its gradient. There are nnz of them,
far fewer than B * m, and a variant only ever computes on those.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from sparsight.parallel import ALONE, Team
from sparsight.sae.sparsity import SparseCode, join

Latents = Mapping[str, Tensor]  # b_enc and the variant's own parameters: (m,), or () if all latents share it


@dataclass(frozen=True)
class Step:
    """The forward half of a training step, as a variant's backward half reads it.

    `x` (B, d) normalised tokens, `dec` (m, d), `b_dec` (d,); `pre` holds the pre-activation of each entry, `z` (nnz,)
    its latent's value, `at` each latent parameter at the entries, (nnz,) or (); `penalty` = lambda / (B m).
    """

    x: Tensor
    dec: Tensor
    b_dec: Tensor
    pre: SparseCode
    z: Tensor
    at: Latents
    penalty: float


class Backward(NamedTuple):
    """What a variant adds to the loss, (), and the gradients at the entries, (nnz,) each.

    `pre`: of the product W h (with the bias of t); `b_enc`: of the encoder's bias; `own`: of its own parameters.
    """

    loss: Tensor
    pre: Tensor
    b_enc: Tensor
    own: dict[str, Tensor]


class Variant:
    """An activation. The defaults: z is the pre-activation of the entries that are kept, lambda weighs the mean |z|."""

    own: tuple[str, ...] = ()  # names of trained parameters (m,) beside b_enc
    alone = True  # whether one latent can be computed without the others

    def dense(self, pre: Tensor, latents: Latents) -> Tensor:
        """Latents (..., m) >= 0 from pre-activations (..., m), at inference."""
        raise NotImplementedError

    def entries(self, pre: Tensor, latents: Latents) -> SparseCode:
        """The same for (T, m), without the zeros."""
        raise NotImplementedError

    def candidates(self, chunks: Iterable[Tensor], tokens: int, latents: Latents, team: Team = ALONE) -> SparseCode:
        """The pre-activations of the entries of a training step over `tokens` tokens, that come in chunks (rows, m).

        A chunk may be overwritten once the next one is asked for. Each rank of `team` holds `tokens` of its own.
        """
        return join([self.entries(pre, latents) for pre in chunks])

    def activate(self, pre: Tensor, at: Latents) -> Tensor:
        """The values (nnz,) of a training step's entries from their pre-activations (nnz,)."""
        return pre

    def backward(self, step: Step, dz: Tensor) -> Backward:
        """Carry the reconstruction's gradient dz (nnz,) back through the activation, and add the penalty's."""
        dpre = dz + step.penalty
        return Backward(step.penalty * step.z.sum(), dpre, dpre, {})

    def threshold(self, pre: SparseCode, team: Team = ALONE) -> Tensor:
        """Below what a pre-activation was cut in this step on all ranks, (); 0 for all but BatchTopK."""
        return pre.values.new_zeros(())

    def reset(self, latents: Latents, index: Tensor, pre: Tensor) -> None:
        """Set the own parameters of the latents `index` (n,) so that each fires at the pre-activations `pre` (n,)."""
