"""The one loop: DDIM sampling and inversion, plain or asymmetric, with interventions, step by step.

Sources: DDIM, arXiv 2010.02502 (eq. 12 with eta); the asymmetric step, Asyrp, arXiv 2210.10960:
the edit moves only the predicted x0, the direction to x_t keeps the unedited noise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from sparsight.diffusion.conditioning import Conditioning
from sparsight.diffusion.model import DiffusionModel
from sparsight.diffusion.schedule import CLEAN, Prediction
from sparsight.diffusion.sites import EditRecord, Intervention
from sparsight.errors import SparsightError, unknown

MODES = ("asymmetric", "plain")
Predict = Callable[[Tensor, int], Prediction]


@dataclass(frozen=True)
class Moment:
    """One step of a run: at `t` the state was `x_t`, the (edited) prediction `x0`, and the step led to `x_next` at `t_next`.

    `edits` says how strong the interventions of this step were; None where none acted.
    """

    index: int
    steps: int
    t: int
    t_next: int
    x_t: Tensor
    x0: Tensor
    x_next: Tensor
    edits: EditRecord | None = None


@dataclass(frozen=True)
class Loop:
    """How to walk. `eta` is DDIM's noise (0: deterministic, 1: DDPM); `mode` says what an edit may move.

    `clip` follows the pipeline's own clipping of x0; it is off by default since a clipped step cannot be inverted.
    `refine` re-solves each inversion step that many times as a fixed point, at one model call each.
    """

    steps: int = 100
    mode: str = "asymmetric"
    eta: float = 0.0
    clip: bool = False
    refine: int = 0

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise unknown("stepping mode", self.mode, MODES)
        if not 0 <= self.eta <= 1:
            raise SparsightError(f"eta is {self.eta}, but must lie between 0 (DDIM) and 1 (DDPM)")


def walk(
    model: DiffusionModel, x: Tensor, loop: Loop, *, conditioning: Conditioning | None = None,
    interventions: Sequence[Intervention] = (), invert: bool = False, start: int = 0,
    generator: torch.Generator | None = None,
) -> Iterator[Moment]:  # fmt: skip
    """Yield every step from noise to image, or from image to noise with `invert`.

    `x` (B, c, h, w) is x_T, or the clean latents. `conditioning` is what a text-to-image model is told. `start` skips the
    first steps of a sampling run, for a state that was saved on the way. With no active intervention a step is the
    scheduler's own.
    """
    pairs = model.pairs(loop.steps)
    if invert:
        if interventions:
            raise SparsightError("inversion takes no interventions: invert first, then sample with them")
        pairs = [(later, earlier) for earlier, later in reversed(pairs)]
    for index, (t, t_next) in enumerate(pairs[start:], start):
        predict = partial(model.predict, conditioning=conditioning, index=index, steps=len(pairs))
        record = None
        if invert:
            predicted, following = _invert_step(model, predict, x, t, t_next, loop)
        else:
            acting = [i for i in interventions if i.active(t)]
            predicted, record = _predict_edited(model, predict, x, t, acting, loop)
            following = _ddim(model, *predicted, t, t_next, loop.eta, generator)
        yield Moment(index, len(pairs), t, t_next, x, predicted.x0, following, record)
        x = following


def _invert_step(
    model: DiffusionModel, predict: Predict, x: Tensor, t: int, t_next: int, loop: Loop
) -> tuple[Prediction, Tensor]:
    predicted = predict(x, max(t, 0))
    following = _move(model, x, predicted.eps, t, t_next)
    for _ in range(loop.refine):  # what sampling will compute at the far end, until it leads back here
        predicted = predict(following, t_next)
        following = _move(model, x, predicted.eps, t, t_next)
    return predicted, following


def _move(model: DiffusionModel, x: Tensor, eps: Tensor, t: int, t_next: int) -> Tensor:
    signal, sigma = model.schedule.levels(t, x)
    signal_next, sigma_next = model.schedule.levels(t_next, x)
    return signal_next * (x - sigma * eps) / signal + sigma_next * eps


def _predict_edited(
    model: DiffusionModel, predict: Predict, x: Tensor, t: int, acting: Sequence[Intervention], loop: Loop
) -> tuple[Prediction, EditRecord | None]:
    """x0 with the edits; eps without them in the asymmetric mode; both clipped as the pipeline would."""
    if not acting:
        record, (x0, eps) = None, predict(x, t)
    else:
        with model.edit(acting) as record:
            x0, eps = predict(x, t)
        if loop.mode == "asymmetric":
            eps = predict(x, t).eps
    if loop.clip and model.schedule.clip is not None:
        x0 = x0.clamp(-model.schedule.clip, model.schedule.clip)
        if model.schedule.rederive:
            signal, sigma = model.schedule.levels(t, x)
            eps = (x - signal * x0) / sigma
    return Prediction(x0, eps), record


def _ddim(
    model: DiffusionModel, x0: Tensor, eps: Tensor, t: int, t_next: int, eta: float, generator: torch.Generator | None
) -> Tensor:
    """DDIM eq. 12; the noise it adds is drawn as diffusers draws it, so equal generators give equal images."""
    signal, sigma = model.schedule.levels(t, x0)
    signal_next, sigma_next = model.schedule.levels(t_next, x0)
    if eta == 0:
        return signal_next * x0 + sigma_next * eps
    fresh = eta * sigma_next / sigma * (1 - (signal / signal_next) ** 2).clamp_min(0).sqrt()
    direction = (sigma_next**2 - fresh**2).clamp_min(0).sqrt()
    following = signal_next * x0 + direction * eps
    if t_next == CLEAN or t == 0:
        return following
    noise = torch.randn(
        x0.shape, generator=generator, dtype=x0.dtype, device=generator.device if generator else x0.device
    )
    return following + fresh * noise.to(x0.device)


@torch.no_grad()
def sample(
    model: DiffusionModel, noise: Tensor, loop: Loop | None = None, *, conditioning: Conditioning | None = None,
    interventions: Sequence[Intervention] = (), generator: torch.Generator | None = None,
) -> Tensor:  # fmt: skip
    """Clean latents (B, c, h, w) from `noise` of the same shape; `model.decode` makes them images."""
    x = noise
    for moment in walk(
        model, noise, loop or Loop(), conditioning=conditioning, interventions=interventions, generator=generator
    ):
        x = moment.x_next
    return x


@torch.no_grad()
def invert(
    model: DiffusionModel, latents: Tensor, loop: Loop | None = None, *, conditioning: Conditioning | None = None
) -> Tensor:
    """The noise x_T (B, c, h, w) from which `sample` with the same loop and conditioning returns `latents`.

    Guidance above 1 makes the way back inexact; inversion is best done at guidance 1.
    """
    x = latents
    for moment in walk(model, latents, loop or Loop(), conditioning=conditioning, invert=True):
        x = moment.x_next
    return x
