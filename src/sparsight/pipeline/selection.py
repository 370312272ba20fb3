"""Which latents to steer: the best by the alignment's ranking, put in the order of what each does on validation faces.

The norm of a latent's column of W says how much the loss pulled on it, not how many faces it changes. So the best few
are tried one at a time, each by the rule that also chooses strengths, and never on a test face.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sparsight.concepts import Alignment
from sparsight.metrics import editing_precision
from sparsight.pipeline.editing import Faces, edited, window
from sparsight.sae import SAE
from sparsight.steering import Choice, Steering, casl_steer, choose_alpha

if TYPE_CHECKING:
    from sparsight.pipeline.run import Run

CLASSIFIER = "resnet"


@dataclass(frozen=True)
class Tried:
    """What one latent alone did on the validation faces, at the strength that the rule chose for it."""

    latent: int
    alpha: float
    met: bool
    flipped: float
    epr: float

    @property
    def merit(self) -> tuple[bool, float, float]:
        """Latents that meet the rule come first, by EPR; then the others, by faces flipped."""
        return (True, self.epr, 0.0) if self.met else (False, self.flipped, self.epr)


def ordered(
    run: Run, sae: SAE, alignment: Alignment, attribute: str, faces: Faces, count: int
) -> tuple[list[int], list[dict[str, Any]]]:
    """The first `count` latents to steer, best first, and the record of the trials that ordered them."""
    config = run.recipe.steer
    ranked = alignment.top(max(count, config.candidates), config.ranking)
    tried = [
        _try(run, casl_steer(sae, alignment, latents=[latent], window=window(run)), latent, attribute, faces)
        for latent in ranked[: config.candidates]
    ]
    tried.sort(key=lambda one: one.merit, reverse=True)
    best = [one.latent for one in tried] + ranked[config.candidates :]
    return best[:count], [asdict(one) for one in tried]


def _try(run: Run, method: Steering, latent: int, attribute: str, faces: Faces) -> Tried:
    choice, images = choose_strength(run, method, attribute, faces)
    judge = run.world.classifiers[CLASSIFIER]
    with torch.no_grad():
        before, after = judge(faces.original), judge(images[choice.alpha])
    report = editing_precision(
        before, after, run.world.attributes.index(attribute), exclude=run.world.related(attribute),
        names=run.world.attributes, n_resamples=1,
    )  # fmt: skip
    return Tried(latent, choice.alpha, choice.met, report.flip_rate.value, report.epr.value)


def choose_strength(run: Run, method: Steering, attribute: str, faces: Faces) -> tuple[Choice, dict[float, Tensor]]:
    """The strength of `method` by the rule on validation faces, and the edited faces of every strength tried."""
    images: dict[float, Tensor] = {}

    def edit(alpha: float) -> Tensor:
        images[alpha] = edited(run, method.at(alpha), faces.noise)
        return images[alpha]

    return choose_alpha(edit, _flips(run, attribute), run.world.validity, run.recipe.steer.alphas), images


def _flips(run: Run, attribute: str) -> Callable[[Tensor], Tensor]:
    """Whether each image (n, 3, H, W) shows the attribute, by the choosing classifier: bool (n,)."""
    column, judge = run.world.attributes.index(attribute), run.world.classifiers[CLASSIFIER]

    @torch.no_grad()
    def flipped(images: Tensor) -> Tensor:
        return judge(images)[:, column] > 0

    return flipped
