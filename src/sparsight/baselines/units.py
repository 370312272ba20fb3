"""One unit of strength for all methods that move a site's tokens, so that one grid of strengths serves them all.

Strength 1 moves the site's tokens, inside the window, by a shift whose norm is in the mean over training tokens the
tokens' own mean norm. So a strength is about what the edit's record says: |shift| / |tokens|. Strength 1 is far too much:
the strengths that validation faces chose in the runs of docs/results/casl.md lie between 0.001 and 0.06.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from sparsight.baselines.data import FitData
from sparsight.baselines.method import Editor
from sparsight.diffusion.sites import Intervention, Step
from sparsight.errors import SparsightError
from sparsight.steering import Steering, mean_shift


def mean_norm(tokens: Tensor) -> float:
    """The mean norm of tokens (..., C)."""
    return float(tokens.float().norm(dim=-1).mean())


@dataclass(frozen=True)
class SteeringEditor(Editor):
    """An editor that is one `Steering`, already in the shared unit."""

    steering: Steering
    own: float | None = None

    def interventions(self, strength: float) -> Sequence[Intervention]:
        """The steering at this strength."""
        return (self.steering.at(strength),)


def in_units(steering: Steering, data: FitData, own: float | None = None) -> SteeringEditor:
    """The editor of `steering`, scaled so that strength 1 is one mean norm; `own` is the paper's alpha, if any.

    Raises `SparsightError` for a steering that shifts nothing on the training tokens.
    """
    sample = data.sample()
    tokens = sample["tokens"]
    size = steering.size(tokens, sample["t"]) if isinstance(steering, Timed) else mean_shift(steering, tokens)
    if not size > 0:
        raise SparsightError("the edit shifts nothing on the training images, so no strength can be given to it")
    factor = mean_norm(tokens) / size
    return SteeringEditor(steering.scaled(factor), None if own is None else own / factor)


def untold(data: FitData) -> str | None:
    """Why a steering that gates latents cannot read an SAE that has to be told the timestep; None for other SAEs."""
    return "its SAE has to be told the timestep, which this steering does not do" if data.sae.config.t_edges else None


@dataclass(frozen=True)
class Timed(Steering):
    """A steering whose shift depends on the timestep: `rule(tokens, t)` gives it for tokens (B, N, C).

    `stamps` are the timesteps that the rule knows; a step between two of them is taken for the nearest. Without any it
    knows all.
    """

    rule: Callable[[Tensor, int], Tensor] | None = None
    stamps: tuple[int, ...] = field(default=())

    def nearest(self, t: int) -> int:
        """The known timestep next to `t`."""
        return min(self.stamps, key=lambda stamp: abs(stamp - t), default=t)

    def shift_at(self, tokens: Tensor, t: int) -> Tensor:
        """The shift at strength 1 for tokens (B, N, C) of timestep `t`, shaped like them or broadcasting to them."""
        assert self.rule is not None
        return self.unit * self.rule(tokens, self.nearest(t)).to(tokens.device, tokens.dtype)

    def size(self, tokens: Tensor, t: Tensor) -> float:
        """Mean norm of the shift over tokens (M, N, C) of timesteps `t` (M,)."""
        norms = [
            self.shift_at(tokens[t == stamp], int(stamp)).expand(tokens[t == stamp].shape).norm(dim=-1).flatten()
            for stamp in t.unique()
        ]
        return float(sum(float(n.sum()) for n in norms) / sum(len(n) for n in norms))

    def __call__(self, tokens: Tensor, step: Step) -> Tensor:
        """Tokens (B, N, C) plus alpha times the shift of this timestep."""
        if self.alpha == 0:
            return tokens
        assert isinstance(step.t, int)
        return tokens + self.alpha * self.shift_at(tokens, step.t)
