"""CASL on the state, sparsight's own: the alignment's latents say where, its loss and labels say what.

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
from sparsight.baselines.state_editor import StateEditor
from sparsight.baselines.steps import stamp_next_to, step_next_to
from sparsight.baselines.units import untold
from sparsight.concepts.concept import Concept
from sparsight.concepts.state_map import StateConfig, learn_state_map, located
from sparsight.errors import SparsightError, unknown

WHERE = ("latents", "everywhere")
WAYS = ("text", "labels", "both")


@dataclass(frozen=True)
class CaslState(Method):
    """One push of x_t at the step next to `t`, in the positions that hold `share` of CASL's edit.

    `where` "everywhere" does without latents: the ablation that says what they are worth. The push is a constant map,
    learned from the store's states next to `t`: `by` "text" under CASL's loss, in `updates` steps and without labels; by
    "labels" it is BoundaryDiffusion's normal of x_t, found in these positions alone; by "both" the sum of the two
    directions, of which the text's has the weight `text` and the labels' the rest. With `hold` the rest of the picture
    keeps to its unedited path.
    """

    name = "casl_state"
    title = "CASL on the state"
    paper = "sparsight; from arXiv 2601.15441 and arXiv 2302.08357"
    needs = frozenset({ALIGNMENTS, SAE, STORE, TEXT, LABELS})

    t: int = 500
    share: float = 0.95
    where: str = "latents"
    by: str = "both"
    text: float = 0.3
    hold: bool = True
    updates: int = 60
    lr: float = 0.02

    def __post_init__(self) -> None:
        if self.where not in WHERE:
            raise unknown("place of CASL on the state", self.where, WHERE)
        if self.by not in WAYS:
            raise unknown("teacher of CASL on the state", self.by, WAYS)
        if not 0 <= self.text <= 1:
            raise SparsightError(f"the text's weight in CASL on the state is {self.text}, but must lie between 0 and 1")
        unused = {"text": {LABELS}, "labels": {TEXT}}.get(self.by, set())
        unused |= {ALIGNMENTS, SAE} if self.where == "everywhere" else set()
        object.__setattr__(self, "needs", type(self).needs - unused)

    def refusal(self, data: FitData) -> str | None:
        """Its training runs no prompts, and CASL has one code for all timesteps."""
        if data.model.takes_prompts:
            return "it is trained on a model without prompts"
        return untold(data) if SAE in self.needs else None

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
        place = where if self.hold and self.where == "latents" else None
        return StateEditor(t, change * size / change.norm(), float(change.norm() / size), place)

    def _change(self, concept: Concept, data: FitData, states: Tensor, stamp: int, where: Tensor) -> Tensor:
        """The push (c, h, w), zero outside of `where` (h, w) bool."""
        if self.by == "text":
            return self._asked(concept, data, states, stamp, where)
        shown = self._shown(concept, data, states, where)
        if self.by == "labels":
            return shown
        asked = self._asked(concept, data, states, stamp, where)
        size = asked.norm()
        return size * ((1 - self.text) * shown + self.text * asked / size.clamp_min(1e-12))

    def _shown(self, concept: Concept, data: FitData, states: Tensor, where: Tensor) -> Tensor:
        """What labelled states show: the unit normal between those with the concept and those without."""
        normal = boundary((states * where).cpu(), data.labels(concept).bool(), seed=data.seed).normal
        return normal.float().to(states.device) * where

    def _asked(self, concept: Concept, data: FitData, states: Tensor, stamp: int, where: Tensor) -> Tensor:
        """What CASL's loss asks for, in the size that it asks for."""
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
