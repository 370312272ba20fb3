"""Methods that act at one timestep: which step of the run it is."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

from sparsight.baselines.data import FitData
from sparsight.baselines.method import Editor, Plan
from sparsight.diffusion.model import DiffusionModel
from sparsight.errors import SparsightError


def step_next_to(data: FitData, t: int) -> int:
    """The timestep of `data.loop` that is nearest to `t`, the noisier of two."""
    return min((stamp for stamp, _ in data.model.pairs(data.loop.steps)), key=lambda stamp: abs(stamp - t))


def stamp_next_to(data: FitData, t: int) -> int:
    """The timestep of the store's window that is nearest to `t`, the noisier of two."""
    return min(data.stamps(), key=lambda stamp: abs(stamp - t))


def require_step(model: DiffusionModel, plan: Plan, t: int) -> None:
    """Raise `SparsightError` for a run that does not come past timestep `t`."""
    if t not in [stamp for stamp, _ in model.pairs(plan.loop.steps)]:
        raise SparsightError(
            f"this editor acts at timestep {t}, which a run of {plan.loop.steps} steps leaves out: fit it for that loop"
        )


class OneStepEditor(Editor):
    """An editor that acts at the run's step `t` alone."""

    t: int

    def context(self, model: DiffusionModel, strength: float, plan: Plan) -> AbstractContextManager[object]:
        """Nothing, but a run without the step `t` would go unedited, and is refused."""
        require_step(model, plan, self.t)
        return nullcontext()
