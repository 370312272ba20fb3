"""Null-text inversion (Mokady et al., CVPR 2023, arXiv 2211.09794): real images under guidance, by a learned empty prompt.

DDIM inversion without guidance gives a path from the image to noise. Going back with guidance leaves it; so at each step
the negative embedding is optimised until the guided step hits the path's next state (the paper's eq. 3). Weights and
prompt stay.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sparsight.baselines.jacobian import in_fp32
from sparsight.baselines.method import Editor, Plan
from sparsight.diffusion.conditioning import Conditioning
from sparsight.diffusion.model import DiffusionModel
from sparsight.diffusion.sampling import Loop, walk
from sparsight.diffusion.schedule import Prediction
from sparsight.diffusion.sites import Intervention
from sparsight.errors import SparsightError


@dataclass(frozen=True)
class NullText:
    """What stands for real images: their `noise` (B, c, h, w), and at each timestep a negative embedding (B, L, D).

    `errors` are the mean squared distances from the path after each step, noisy to clean.
    """

    noise: Tensor
    negatives: Mapping[int, Tensor]
    errors: tuple[float, ...]

    def told(self, conditioning: Conditioning, t: int) -> Conditioning:
        """The conditioning of the step at `t`. Raises `SparsightError` for a run of other timesteps."""
        if t not in self.negatives:
            raise SparsightError(
                f"the images were inverted in a run without timestep {t}: edit them with the same loop"
            )
        return replace(conditioning, negative=self.negatives[t])


@dataclass(frozen=True)
class Tuning:
    """How the embedding is optimised at each step i of n: Adam for up to `inner` updates at rate lr (1 - i / 2n).

    It stops where the loss is below `stop` + i * `slack`. The paper's n is 50, its numbers are these.
    """

    inner: int = 10
    lr: float = 1e-2
    stop: float = 1e-5
    slack: float = 2e-5


def null_text_inversion(
    model: DiffusionModel, latents: Tensor, conditioning: Conditioning, loop: Loop | None = None, tuning: Tuning | None = None
) -> NullText:  # fmt: skip
    """Invert clean `latents` (B, c, h, w), fp32, told `conditioning`, whose guidance must be above 1 (`SparsightError`).

    Costs one pass for each step of the inversion, one for the prompt, and a pass and its gradient for each update.
    """
    loop, tuning = loop or Loop(50, mode="plain"), tuning or Tuning()
    if conditioning.negative is None:
        raise SparsightError("null-text inversion is for guidance above 1: at 1, plain DDIM inversion does it")
    path, told = _path(model, latents, conditioning, loop), _alone(conditioning.text, conditioning)
    x, negative = path[0], conditioning.negative.expand(len(latents), -1, -1).clone()
    negatives, errors = {}, []
    for index, (t, t_next) in enumerate(model.pairs(loop.steps)):
        with torch.no_grad():
            prompted = model.predict(x, t, told).eps
        negative = _tuned(
            model, (x, prompted, path[index + 1]), (t, t_next), negative, conditioning, tuning, index, loop
        )
        with torch.no_grad():
            x = guided_step(model, x, prompted, negative, (t, t_next), conditioning)
        negatives[t] = negative
        errors.append(float((x - path[index + 1]).square().mean()))
    return NullText(path[0], negatives, tuple(errors))


def guided_step(
    model: DiffusionModel, x: Tensor, prompted: Tensor, negative: Tensor, step: tuple[int, int], conditioning: Conditioning
) -> Tensor:  # fmt: skip
    """The DDIM step (t, next t) from `x` (B, c, h, w) under guidance, differentiable by `negative` (B, L, D).

    `prompted` (B, c, h, w) is the noise that the prompt predicts, which `negative` has no part in.
    """
    t, t_next = step
    without = model.predict(x, t, _alone(negative, conditioning)).eps
    eps = without + conditioning.guidance * (prompted - without)
    signal, sigma = model.schedule.levels(t, x)
    signal_next, sigma_next = model.schedule.levels(t_next, x)
    found = Prediction((x - sigma * eps) / signal, eps)
    return signal_next * found.x0 + sigma_next * found.eps


def _tuned(
    model: DiffusionModel, states: tuple[Tensor, Tensor, Tensor], step: tuple[int, int], negative: Tensor,
    conditioning: Conditioning, tuning: Tuning, index: int, loop: Loop,
) -> Tensor:  # fmt: skip
    """The negative embedding of one step, from that of the step before. Autograd is on and autocast off."""
    x, prompted, wanted = states
    with torch.enable_grad(), in_fp32(model):
        own = negative.detach().clone().requires_grad_()
        optimizer = torch.optim.Adam([own], lr=tuning.lr * (1 - index / (2 * loop.steps)))
        for _ in range(tuning.inner):
            loss = (guided_step(model, x, prompted, own, step, conditioning) - wanted).square().mean()
            if loss.item() < tuning.stop + index * tuning.slack:
                break
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return own.detach()


@torch.no_grad()
def _path(model: DiffusionModel, latents: Tensor, conditioning: Conditioning, loop: Loop) -> list[Tensor]:
    """The states of the unguided inversion, noisy to clean: one more than there are steps."""
    told = _alone(conditioning.text, conditioning)
    states = [m.x_next for m in walk(model, latents, loop, conditioning=told, invert=True)]
    return [*reversed(states), latents]


def _alone(text: Tensor, conditioning: Conditioning) -> Conditioning:
    return Conditioning(conditioning.prompts, text)


@dataclass(frozen=True)
class OnImages(Editor):
    """Another editor on inverted images: start from `images.noise`, with the conditioning and loop of the inversion.

    At strength 0 it gives their reconstruction.
    """

    editor: Editor
    images: NullText

    def __post_init__(self) -> None:
        object.__setattr__(self, "unit", self.editor.unit)
        object.__setattr__(self, "own", self.editor.own)

    def interventions(self, strength: float) -> Sequence[Intervention]:
        """The editor's."""
        return self.editor.interventions(strength)

    def move(
        self, model: DiffusionModel, x_t: Tensor, t: int, strength: float, conditioning: Conditioning | None = None
    ) -> Tensor:
        """The editor's, which is told this step's negative embedding in `conditioning`."""
        return self.editor.move(model, x_t, t, strength, conditioning)

    def told(self, conditioning: Conditioning | None, t: int, strength: float) -> Conditioning | None:
        """What the editor tells, with this step's negative embedding."""
        if conditioning is None:
            raise SparsightError("inverted images are edited under the conditioning that they were inverted with")
        return self.editor.told(self.images.told(conditioning, t), t, strength)

    def context(self, model: DiffusionModel, strength: float, plan: Plan) -> AbstractContextManager[object]:
        """The editor's."""
        return self.editor.context(model, strength, plan)
