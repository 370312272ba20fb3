"""Which latents to steer: the best by the alignment's ranking, put in the order of what each does on validation faces.

The norm of a latent's column of W says how much the loss pulled on it, not how many faces it changes. So the best few
are tried one at a time, each by the rule that also chooses strengths; the best of them are refitted and tried again.
No test face is seen here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sparsight.activations import Store
from sparsight.concepts import Alignment, refit
from sparsight.metrics import editing_precision
from sparsight.pipeline.casl.editing import Faces, edited, window
from sparsight.sae import SAE
from sparsight.steering import Choice, LatentSteering, Steering, casl_steer, choose_alpha

if TYPE_CHECKING:
    from sparsight.pipeline.casl.run import CaslRun

CLASSIFIER = "resnet"
REFITTED = 3  # how many of the best are refitted and tried again


@dataclass(frozen=True)
class Tried:
    """What latents did on the validation faces, at the strength that the rule chose for them."""

    latents: list[int]
    refitted: bool
    alpha: float
    met: bool
    flipped: float
    epr: float

    @property
    def merit(self) -> tuple[bool, float, float]:
        """Those that meet the rule come first, by EPR; then the others, by faces flipped."""
        return (True, self.epr, 0.0) if self.met else (False, self.flipped, self.epr)


@dataclass(frozen=True)
class Selection:
    """CASL-Steer as it was chosen, all latents in the order of their trials, and the record of the trials."""

    casl: LatentSteering
    order: list[int]
    trials: list[dict[str, Any]]


def select(run: CaslRun, sae: SAE, store: Store, alignment: Alignment, attribute: str, faces: Faces) -> Selection:
    """Try the recipe's candidates one by one, refit the best, and keep what does best on the validation faces."""
    config = run.recipe.steer
    ranked = alignment.top(max(config.candidates, config.k, *config.sweep_k, REFITTED), config.ranking)
    alone = [
        _try(run, _steered(run, sae, alignment, [latent]), attribute, faces) for latent in ranked[: config.candidates]
    ]
    alone.sort(key=lambda one: one.merit, reverse=True)
    order = [one.latents[0] for one in alone] + ranked[config.candidates :]
    casl = _steered(run, sae, alignment, order[: config.k])
    if not config.refit:
        return Selection(casl, order, [asdict(one) for one in alone])
    groups = [order[i : i + 1] for i in range(REFITTED)] if config.k == 1 else [order[: config.k]]
    rivals = [casl, *(refitted(run, sae, store, alignment, group) for group in groups)]
    together = [_try(run, rival, attribute, faces, refit=rival is not casl) for rival in rivals]
    best = rivals[max(range(len(rivals)), key=lambda i: together[i].merit)]
    order = [*best.latents, *(latent for latent in order if latent not in best.latents)]
    return Selection(best, order, [asdict(one) for one in together + alone])


def refitted(run: CaslRun, sae: SAE, store: Store, alignment: Alignment, latents: Sequence[int]) -> LatentSteering:
    """CASL-Steer on these latents with their columns learned again, alone."""
    columns = refit(
        run.model, sae, store, run.world.source("harvest"), alignment, latents, run.world.clip,
        replace(run.recipe.align, seed=run.recipe.seed), updates=run.recipe.steer.refit, numbers=run.train_numbers,
    )  # fmt: skip
    return replace(_steered(run, sae, alignment, latents), directions=columns)


def _steered(run: CaslRun, sae: SAE, alignment: Alignment, latents: Sequence[int]) -> LatentSteering:
    return casl_steer(sae, alignment, latents=latents, window=window(run))


def _try(run: CaslRun, method: LatentSteering, attribute: str, faces: Faces, refit: bool = False) -> Tried:
    choice, images = choose_strength(run, method, attribute, faces)
    judge = run.world.classifiers[CLASSIFIER]
    with torch.no_grad():
        before, after = judge(faces.original), judge(images[choice.alpha])
    report = editing_precision(
        before, after, run.world.attributes.index(attribute), exclude=run.world.related(attribute),
        names=run.world.attributes, n_resamples=1,
    )  # fmt: skip
    return Tried(list(method.latents), refit, choice.alpha, choice.met, report.flip_rate.value, report.epr.value)


def choose_strength(run: CaslRun, method: Steering, attribute: str, faces: Faces) -> tuple[Choice, dict[float, Tensor]]:
    """The strength of `method` by the rule on validation faces, and the edited faces of every strength tried."""
    images: dict[float, Tensor] = {}

    def edit(alpha: float) -> Tensor:
        images[alpha] = edited(run, method.at(alpha), faces.noise)
        return images[alpha]

    return choose_alpha(edit, _flips(run, attribute), run.world.validity, run.recipe.steer.alphas), images


def _flips(run: CaslRun, attribute: str) -> Callable[[Tensor], Tensor]:
    """Whether each image (n, 3, H, W) shows the attribute, by the choosing classifier: bool (n,)."""
    column, judge = run.world.attributes.index(attribute), run.world.classifiers[CLASSIFIER]

    @torch.no_grad()
    def flipped(images: Tensor) -> Tensor:
        return judge(images)[:, column] > 0

    return flipped
