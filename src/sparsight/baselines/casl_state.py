"""CASL on the state, sparsight's own: the alignment's latents say where, its loss on x_t, or labels, say what.

In the comparison, BoundaryDiffusion led CASL-Steer. Taken apart on validation faces, all of its lead came from moving
x_t, none from its labels' hyperplane in the bottleneck; so here CASL moves x_t, where its own latents point to.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from sparsight.baselines.boundary import boundary
from sparsight.baselines.data import FitData
from sparsight.baselines.method import ALIGNMENTS, LABELS, SAE, STORE, TEXT, Editor, Method
from sparsight.baselines.steps import OneStepEditor, stamp_next_to, step_next_to
from sparsight.baselines.units import untold
from sparsight.concepts.concept import Concept
from sparsight.concepts.state_map import StateConfig, learn_state_map, located
from sparsight.diffusion.conditioning import Conditioning
from sparsight.diffusion.model import DiffusionModel
from sparsight.errors import SparsightError, unknown

WHERE = ("latents", "everywhere")
WAYS = ("text", "labels")


@dataclass(frozen=True)
class CaslState(Method):
    """One push of x_t at the step next to `t`, in the positions that hold `share` of CASL's edit.

    `where` "everywhere" does without latents: the ablation that says what they are worth. The push is a constant map,
    learned from the store's states next to `t`: `by` "text" under CASL's loss, in `updates` steps and without labels; by
    "labels" it is BoundaryDiffusion's normal of x_t, found in these positions alone.
    """

    name = "casl_state"
    title = "CASL on the state"
    paper = "sparsight; from arXiv 2601.15441 and arXiv 2302.08357"
    needs = frozenset({ALIGNMENTS, SAE, STORE, TEXT})

    t: int = 500
    share: float = 0.8
    where: str = "latents"
    by: str = "text"
    updates: int = 60
    lr: float = 0.02

    def __post_init__(self) -> None:
        if self.where not in WHERE:
            raise unknown("place of CASL on the state", self.where, WHERE)
        if self.by not in WAYS:
            raise unknown("teacher of CASL on the state", self.by, WAYS)
        if self.by == "labels":
            object.__setattr__(self, "needs", type(self).needs - {TEXT} | {LABELS})

    def refusal(self, data: FitData) -> str | None:
        """Its training runs no prompts, and CASL has one code for all timesteps."""
        if data.model.takes_prompts:
            return "it is trained on a model without prompts"
        return untold(data)

    def fit(self, concept: Concept, data: FitData) -> Editor:
        """Find the place, learn the push, put it into the unit of strength."""
        t = step_next_to(data, self.t)
        stamp = stamp_next_to(data, t)
        rows = data.at(stamp, "tokens", "x_t")
        states = rows["x_t"].float().to(data.model.device)
        where = self._place(concept, data, rows["tokens"].float(), states.shape[-2:]).to(states.device)
        change = self._change(concept, data, states, stamp, where)
        if not float(change.norm()):
            raise SparsightError(f"the push towards {concept.name!r} is nothing: its loss has no slope here")
        size = states.flatten(1).norm(dim=1).mean()
        return StateEditor(t, change * size / change.norm(), float(change.norm() / size))

    def _change(self, concept: Concept, data: FitData, states: Tensor, stamp: int, where: Tensor) -> Tensor:
        if self.by == "labels":
            normal = boundary(states * where, data.labels(concept).bool(), seed=data.seed).normal
            return normal.float().to(states.device) * where
        with torch.no_grad():
            source, target = data.clip.text([concept.source, concept.target])
        config = StateConfig(self.updates, lr=self.lr, seed=data.seed)
        return learn_state_map(data.model, states, stamp, (source, target), data.clip, where, config)

    def _place(self, concept: Concept, data: FitData, tokens: Tensor, grid: tuple[int, ...]) -> Tensor:
        if self.where == "everywhere":
            return torch.ones(grid, dtype=torch.bool)
        own = data.model.site(data.site).grid
        kept = located(tokens, data.sae, data.alignment(concept), self.share)
        return F.interpolate(kept.reshape(1, 1, *own).float(), size=grid)[0, 0] > 0


@dataclass(frozen=True)
class StateEditor(OneStepEditor):
    """Adds a fixed change (c, h, w) to x_t once, at the run's step `t`. `own` is its size as it was learned."""

    t: int
    change: Tensor
    own: float | None = None
    unit = "a distance of the mean norm of x_t"

    def move(
        self, model: DiffusionModel, x_t: Tensor, t: int, strength: float, conditioning: Conditioning | None = None
    ) -> Tensor:
        """The push, at its step."""
        if strength == 0 or t != self.t:
            return x_t
        return x_t + strength * self.change.to(x_t.device, x_t.dtype)
