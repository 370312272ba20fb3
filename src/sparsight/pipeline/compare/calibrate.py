"""The strengths of an editor: where its edits of validation images lie at the levels of the recipe."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sparsight.baselines.method import Editor
from sparsight.errors import SparsightError
from sparsight.pipeline.compare.images import Images, edited
from sparsight.pipeline.compare.strengths import Match, match_levels
from sparsight.steering import choose_alpha

if TYPE_CHECKING:
    from sparsight.pipeline.compare.run import CompareRun

START = 0.01  # the first strength tried where the paper names none, in the unit that methods on a site share


class Trials:
    """Edits of the validation images, kept by strength."""

    def __init__(self, run: CompareRun, editor: Editor, images: Images) -> None:
        self.run, self.editor, self.images = run, editor, images
        self.edits: dict[float, Tensor] = {}

    @torch.no_grad()
    def distance(self, strength: float) -> float:
        """The mean perceptual distance from the unedited images, NaN where the edit overflows."""
        edit = edited(self.run, self.editor, strength, self.images.noise, self.images.told)
        if not torch.isfinite(edit).all():
            return math.nan
        self.edits[strength] = edit
        return float(self.run.subject.perceptual(self.images.original, edit).mean())


def calibrate(run: CompareRun, editor: Editor, concept: str, validation: Images) -> dict[str, Any]:
    """The strengths for the recipe's levels, and which of them the rule on flips and validity takes.

    Raises `SparsightError` for an editor that changes nothing at any strength.
    """
    trials = Trials(run, editor, validation)
    start = abs(editor.own) if editor.own else START
    matches = match_levels(trials.distance, run.recipe.levels, start, run.recipe.tolerance)
    if not matches:
        raise SparsightError("the edit changes no image at any strength that was tried")
    chosen, met, tried = _choice(run, concept, trials, matches)
    return {"matches": [asdict(m) for m in matches], "chosen": chosen, "met": met, "trials": tried}


def _choice(
    run: CompareRun, concept: str, trials: Trials, matches: Sequence[Match]
) -> tuple[int, bool, list[dict[str, float]]]:
    subject = run.subject
    column = list(subject.attributes).index(str(subject.concepts[concept].attribute))
    judge = subject.classifiers[run.recipe.judge]

    @torch.no_grad()
    def flipped(images: Tensor) -> Tensor:
        return judge(images)[:, column] > 0

    strengths = [match.strength for match in matches]
    choice = choose_alpha(lambda s: trials.edits[s], flipped, subject.valid, strengths)
    tried = [
        {"strength": strength, "flipped": float(flipped(edit).float().mean()), "valid": float(subject.valid(edit).float().mean())}
        for strength, edit in sorted(trials.edits.items())
    ]  # fmt: skip
    return strengths.index(choice.alpha), choice.met, tried
