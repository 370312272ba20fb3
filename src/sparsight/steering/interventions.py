"""Interventions: CASL-Steer, and the controls that it has to beat, all of the form tokens + alpha * shift."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import torch
from torch import Tensor

from sparsight.concepts.alignment import Alignment
from sparsight.diffusion.sites import Step
from sparsight.errors import SparsightError
from sparsight.sae import SAE


@dataclass(frozen=True)
class Window:
    """The timesteps, both ends included, in which an intervention acts. CASL: 500 to 999."""

    low: int = 500
    high: int = 999

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise SparsightError(f"the window runs from {self.low} to {self.high}: nothing lies between")

    def __contains__(self, t: int) -> bool:
        return self.low <= t <= self.high


@dataclass(frozen=True)
class Steering:
    """An intervention of adjustable strength. `alpha` 0 returns the very same tokens."""

    site: str
    alpha: float = 1.0
    window: Window = field(default_factory=Window)
    unit: float = 1.0  # what strength 1 means, so that methods can be put on one scale

    def active(self, t: int) -> bool:
        """Whether it acts at timestep `t`."""
        return self.alpha != 0 and t in self.window

    def at(self, alpha: float) -> Self:
        """The same intervention at another strength."""
        return replace(self, alpha=float(alpha))

    def scaled(self, factor: float) -> Self:
        """The same intervention with a shift `factor` times as large at every strength."""
        return replace(self, unit=self.unit * factor)

    def shift(self, tokens: Tensor) -> Tensor:
        """The shift at strength 1, shaped like `tokens` (B, N, C) or broadcasting to it."""
        return self.unit * self._shift(tokens)

    def _shift(self, tokens: Tensor) -> Tensor:
        raise NotImplementedError

    def __call__(self, tokens: Tensor, step: Step) -> Tensor:
        """Tokens (B, N, C) plus alpha times the shift."""
        return tokens if self.alpha == 0 else tokens + self.alpha * self.shift(tokens).to(tokens.dtype)


@dataclass(frozen=True)
class LatentSteering(Steering):
    """shift = sum over the chosen latents i of z_i(token) * directions[i]: the current code gates fixed directions.

    Only the chosen columns of the encoder are computed. `directions` is (k, C), in raw activation units.
    """

    sae: SAE | None = None
    latents: tuple[int, ...] = ()
    directions: Tensor | None = None

    def _shift(self, tokens: Tensor) -> Tensor:
        assert self.sae is not None and self.directions is not None
        return self.sae.encode_latents(tokens, list(self.latents)) @ self.directions


@dataclass(frozen=True)
class Direction(Steering):
    """A fixed shift: one vector (C,) for all positions, or one for each position (N, C)."""

    vector: Tensor | None = None

    def _shift(self, tokens: Tensor) -> Tensor:
        assert self.vector is not None
        return self.vector


@dataclass(frozen=True)
class LinearMap(Steering):
    """shift = normalised tokens @ W: the alignment learned on the activation itself, without an SAE."""

    sae: SAE | None = None  # for its input statistics alone
    matrix: Tensor | None = None

    def _shift(self, tokens: Tensor) -> Tensor:
        assert self.sae is not None and self.matrix is not None
        return self.sae.normalise(tokens) @ self.matrix


def casl_steer(
    sae: SAE, alignment: Alignment, *, k: int = 1, alpha: float = 1.0, ranking: str = "l2", window: Window | None = None,
    latents: Sequence[int] | None = None,
) -> LatentSteering:  # fmt: skip
    """CASL-Steer: shift = alpha * sum over the top-k latents of W_i z_i, without the bias (eq. 9-11).

    `latents`, where given, are steered in place of the alignment's own top k. Raises `SparsightError` if the
    alignment was not learned on latents of an SAE of this size.
    """
    if alignment.basis != "latents" or len(alignment.W) != sae.config.d_sae:
        raise SparsightError(
            f"the alignment of {alignment.concept.name!r} has {len(alignment.W)} {alignment.basis}, "
            f"but the SAE has {sae.config.d_sae} latents"
        )
    chosen = alignment.top(k, ranking) if latents is None else list(latents)
    return LatentSteering(
        alignment.site, alpha, window or Window(), sae=sae, latents=tuple(chosen), directions=alignment.W[chosen]
    )


def steer_together(interventions: list[LatentSteering]) -> list[LatentSteering]:
    """Several concepts at once: merge what shares an SAE, a site and a window into one pass over the encoder."""
    merged: dict[tuple, LatentSteering] = {}
    for one in interventions:
        assert one.directions is not None
        scaled = replace(one, alpha=1.0, unit=1.0, directions=one.alpha * one.unit * one.directions)
        key = (id(one.sae), one.site, one.window)
        if key in merged:
            before = merged[key]
            assert before.directions is not None and scaled.directions is not None
            rows = torch.cat([before.directions, scaled.directions])
            scaled = replace(scaled, latents=before.latents + scaled.latents, directions=rows)
        merged[key] = scaled
    return list(merged.values())
