"""Park et al. (NeurIPS 2023, arXiv 2307.12868): the local basis of x-space under the pullback metric of the bottleneck.

The metric of h = f(x_t), pulled back to x_t, is J'J with J = dh/dx_t. Its leading eigenvectors, the right singular vectors
of J, are the directions in which a state changes h most. An edit moves x_t itself, once, by x-space guidance:
K times, x <- x + gamma (eps(x + delta v) - eps(x)).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sparsight.baselines.data import FitData
from sparsight.baselines.difference import halves, weighted_sums
from sparsight.baselines.jacobian import site_of_state, subspace
from sparsight.baselines.method import GRADIENTS, LABELS, STORE, Editor, Method
from sparsight.baselines.steps import OneStepEditor, stamp_next_to, step_next_to
from sparsight.concepts.concept import Concept
from sparsight.diffusion.conditioning import Conditioning
from sparsight.diffusion.model import DiffusionModel
from sparsight.errors import unknown

SCOPES = ("global", "local")


@dataclass(frozen=True)
class Basis:
    """How a local basis is found: `count` vectors by at most `iterations` of subspace iteration."""

    site: str
    count: int
    iterations: int
    tolerance: float
    seed: int

    def named(
        self, model: DiffusionModel, x_t: Tensor, t: int, wanted: Tensor, conditioning: Conditioning | None = None
    ) -> Tensor:
        """The vector of each image's basis that moves h most nearly along `wanted` (N, C), signed: (B, c, h, w), unit.

        The basis itself has no names; picking by the labelled difference of means in h is our way to a fair comparison.
        """
        at = site_of_state(model, self.site, x_t, t, conditioning)
        vectors, _ = subspace(at, self.count, iterations=self.iterations, tolerance=self.tolerance, seed=self.seed)
        goal = wanted.flatten().to(x_t)
        cosines = torch.stack(
            [torch.cosine_similarity(at.push(vectors[:, k]), goal[None]) for k in range(self.count)], 1
        )
        best = cosines.abs().argmax(1)
        rows = torch.arange(len(x_t), device=x_t.device)
        return vectors[rows, best] * cosines[rows, best].sign().reshape(-1, 1, 1, 1)


@dataclass(frozen=True)
class ParkPullback(Method):
    """One of the `count` leading vectors of the pullback metric at the timestep next to `t`, chosen by labels.

    `scope` "local" finds the basis of every image that is edited, as the paper's main results do (a few hundred passes for
    each); "global" averages the vectors that were chosen on `images` training images, as its section 4.4 does. `gamma`,
    `delta` and `repeats` (K) are the paper's for unconditional models. It edits at 1.0, 0.8 or 0.6 of all timesteps.
    """

    name = "park_pullback"
    title = "Park et al., pullback"
    paper = "arXiv 2307.12868"
    needs = frozenset({LABELS, STORE, GRADIENTS})

    t: int = 600
    scope: str = "global"
    count: int = 10
    images: int = 8
    gamma: float = 0.1
    delta: float = 1.0
    repeats: int = 16
    iterations: int = 20
    tolerance: float = 1e-2

    def __post_init__(self) -> None:
        if self.scope not in SCOPES:
            raise unknown("scope of a local basis", self.scope, SCOPES)

    def refusal(self, data: FitData) -> str | None:
        """The store of a text-to-image model does not say which prompt made each state."""
        return "its basis is fitted without prompts" if data.model.takes_prompts else None

    def fit(self, concept: Concept, data: FitData) -> Editor:
        """The labelled difference in h at the timestep, and for "global" the mean vector of some training images."""
        t = step_next_to(data, self.t)
        stamp = stamp_next_to(data, t)
        wanted = weighted_sums(data, halves(data.labels(concept)))[stamp]
        basis = Basis(data.site, self.count, self.iterations, self.tolerance, data.seed)
        editor = ParkEditor(t, basis, wanted, self.gamma, self.delta, self.repeats)
        if self.scope == "local":
            return editor
        x_t = data.at(stamp, "x_t")["x_t"][: self.images].to(data.model.device)
        mean = basis.named(data.model, x_t, stamp, wanted).mean(0)
        return ParkEditor(t, basis, wanted, self.gamma, self.delta, self.repeats, mean / mean.norm())


@dataclass(frozen=True)
class ParkEditor(OneStepEditor):
    """Moves the state at the run's step `t`; strength 1 is the paper's step size, and a negative one turns v round.

    `vector` (c, h, w) is the global direction, None where each image has its own.
    """

    t: int
    basis: Basis
    wanted: Tensor
    gamma: float
    delta: float
    repeats: int
    vector: Tensor | None = None
    unit = "the paper's step size gamma"
    own = 1.0

    def move(
        self, model: DiffusionModel, x_t: Tensor, t: int, strength: float, conditioning: Conditioning | None = None
    ) -> Tensor:
        """x-space guidance along the direction, K times."""
        if strength == 0 or t != self.t:
            return x_t
        vector = self.vector
        if vector is None:
            vector = self.basis.named(model, x_t, t, self.wanted, conditioning)
        tangent = self.delta * (1 if strength > 0 else -1) * vector.to(x_t)
        for _ in range(self.repeats):
            moved, still = (model.predict(x, t, conditioning).eps for x in (x_t + tangent, x_t))
            x_t = x_t + abs(strength) * self.gamma * (moved - still)
        return x_t
