"""Choose a strength on validation images by a stated rule, never on the test images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from sparsight.errors import SparsightError

RULE = "the smallest alpha at which the target flips on at least 80 % of the validation images and at least 90 % stay valid"


@dataclass(frozen=True)
class Trial:
    """What one strength did on the validation images: share flipped, share still valid."""

    alpha: float
    flipped: float
    valid: float


@dataclass(frozen=True)
class Choice:
    """The chosen strength, whether the rule was met, and everything that was tried, weakest first."""

    alpha: float
    met: bool
    trials: tuple[Trial, ...]


def choose_alpha(
    edit: Callable[[float], Tensor], flipped: Callable[[Tensor], Tensor], valid: Callable[[Tensor], Tensor],
    alphas: Sequence[float], *, flips: float = 0.8, keeps: float = 0.9,
) -> Choice:  # fmt: skip
    """Try `alphas` from weak to strong and stop at the first that meets the rule.

    `edit(alpha)` gives validation images (n, 3, H, W), `flipped` and `valid` (n,) bool for them. Where none
    meets the rule, the strength with the most flips among those that keep the images valid is taken; where
    none keeps them valid, the weakest.
    """
    if not alphas:
        raise SparsightError("there is no strength to choose from: give at least one alpha")
    trials: list[Trial] = []
    for alpha in sorted(alphas):
        images = edit(alpha)
        trial = Trial(float(alpha), float(flipped(images).float().mean()), float(valid(images).float().mean()))
        trials.append(trial)
        if trial.flipped >= flips and trial.valid >= keeps:
            return Choice(trial.alpha, True, tuple(trials))
        if trial.valid < keeps / 2:
            break  # stronger is only worse
    sound = [trial for trial in trials if trial.valid >= keeps]
    best = max(sound, key=lambda trial: (trial.flipped, -trial.alpha)) if sound else trials[0]
    return Choice(best.alpha, False, tuple(trials))
