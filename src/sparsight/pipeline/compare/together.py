"""Several editors in one run: their interventions add up, their moves follow one another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace

from torch import Tensor

from sparsight.baselines.method import Editor, Plan
from sparsight.diffusion.conditioning import Conditioning
from sparsight.diffusion.model import DiffusionModel
from sparsight.diffusion.sites import Intervention


@dataclass(frozen=True)
class Together(Editor):
    """`parts` are editors, each with its strength at strength 1; other strengths scale them all."""

    parts: tuple[tuple[Editor, float], ...]
    unit = "every editor at the strength given with it"

    def interventions(self, strength: float) -> Sequence[Intervention]:
        """All of them, in order."""
        return [one for editor, own in self.parts for one in editor.interventions(strength * own)]

    def move(
        self, model: DiffusionModel, x_t: Tensor, t: int, strength: float, conditioning: Conditioning | None = None
    ) -> Tensor:
        """One after the other."""
        for editor, own in self.parts:
            x_t = editor.move(model, x_t, t, strength * own, conditioning)
        return x_t

    def told(self, conditioning: Conditioning | None, t: int, strength: float) -> Conditioning | None:
        """One after the other."""
        for editor, own in self.parts:
            conditioning = editor.told(conditioning, t, strength * own)
        return conditioning

    @contextmanager
    def _all(self, model: DiffusionModel, strength: float, plan: Plan) -> Iterator[None]:
        with ExitStack() as stack:
            for i, (editor, own) in enumerate(self.parts):
                others = tuple(other for j, (other, _) in enumerate(self.parts) if j != i)
                stack.enter_context(editor.context(model, strength * own, replace(plan, beside=others)))
            yield

    def context(self, model: DiffusionModel, strength: float, plan: Plan) -> AbstractContextManager[object]:
        """All of them, undone in reverse."""
        return self._all(model, strength, plan)
