"""The editor that pushes x_t once, somewhere, and keeps the rest of the picture to its unedited path."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sparsight.baselines.method import Editor, Plan
from sparsight.baselines.steps import require_step
from sparsight.diffusion.conditioning import Conditioning
from sparsight.diffusion.model import DiffusionModel
from sparsight.diffusion.sampling import walk
from sparsight.errors import SparsightError


@dataclass
class StateEditor(Editor):
    """Adds a fixed change (c, h, w) to x_t once, at the run's step `t`. `own` is its size as it was learned.

    With a `place` (h, w) bool, all other positions follow the unedited image from there on, as in Blended Diffusion
    (arXiv 2111.14818): the steps after `t` cost two passes. An editor in the same run that has a place keeps its own free.
    """

    t: int
    change: Tensor
    own: float | None = None
    place: Tensor | None = None
    unit = "a distance of the mean norm of x_t"
    plan: Plan | None = field(default=None, init=False, repr=False)

    @contextmanager
    def context(self, model: DiffusionModel, strength: float, plan: Plan) -> Iterator[None]:
        """Keeps the run in mind. Raises `SparsightError` for a run without the step `t`, or with noise of its own."""
        require_step(model, plan, self.t)
        if strength != 0 and self.place is not None and plan.loop.eta != 0:
            raise SparsightError(f"the unedited path has no fresh noise: eta must be 0, not {plan.loop.eta}")
        self.plan = plan
        try:
            yield
        finally:
            self.plan = None

    def move(
        self, model: DiffusionModel, x_t: Tensor, t: int, strength: float, conditioning: Conditioning | None = None
    ) -> Tensor:
        """The push, at its step; after it the unedited state outside of the place."""
        if strength == 0:
            return x_t
        if t == self.t:
            self._look_ahead(model, x_t, conditioning)
            return x_t + strength * self.change.to(x_t.device, x_t.dtype)
        if self.place is None or t not in self._running().unedited:
            return x_t
        return torch.where(self._free(self.place).to(x_t.device), x_t, self._running().unedited[t])

    def _look_ahead(self, model: DiffusionModel, x_t: Tensor, told: Conditioning | None) -> None:
        """Walk the unedited path from here on, unless an editor beside this one has, or there is nothing to hold."""
        if self.place is None or self._running().unedited or bool(self._free(self.place).all()):
            return
        start = [t for t, _ in model.pairs(self._running().loop.steps)].index(self.t)
        steps = walk(model, x_t, self._running().loop, conditioning=told, start=start)
        self._running().unedited.update({moment.t: moment.x_t for moment in steps})

    def _free(self, free: Tensor) -> Tensor:
        """Where this editor, whose place is given, and those beside it may edit: (h, w) bool."""
        for other in self._running().beside:
            free = free | (torch.ones_like(free) if other.place is None else other.place)
        return free

    def _running(self) -> Plan:
        if self.plan is None:
            raise SparsightError("an editor with a place edits inside its context only: use edit_images")
        return self.plan
