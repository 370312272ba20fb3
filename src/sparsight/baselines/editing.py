"""The one place where an editor meets the sampler: every method, at every strength, goes through `edit_images`."""

from __future__ import annotations

import torch
from torch import Tensor

from sparsight.baselines.method import Editor, Plan
from sparsight.diffusion.conditioning import Conditioning
from sparsight.diffusion.model import DiffusionModel
from sparsight.diffusion.sampling import Loop, walk


@torch.no_grad()
def edit_images(
    model: DiffusionModel, editor: Editor, strength: float, noise: Tensor, loop: Loop | None = None,
    conditioning: Conditioning | None = None, generator: torch.Generator | None = None,
) -> Tensor:  # fmt: skip
    """Images (B, 3, H, W) in [-1, 1] sampled from `noise` (B, c, h, w) under an editor at `strength`.

    Strength 0 gives what `sample` and `model.decode` give without an editor, bit for bit. `Loop.mode` is a matter of
    interventions; what an editor does to states, weights, attention or prompts enters the whole step. `generator`
    draws the noise of a loop with eta above 0.
    """
    plan = Plan(noise, loop or Loop(), conditioning, generator)
    with editor.context(model, strength, plan):
        return model.decode(edited_latents(model, editor, strength, plan)).clamp(-1, 1)


def edited_latents(model: DiffusionModel, editor: Editor, strength: float, plan: Plan) -> Tensor:
    """Clean latents (B, c, h, w) of a run; the editor's context is the caller's to open."""
    x, acting = plan.noise, list(editor.interventions(strength))
    for index, (t, _) in enumerate(model.pairs(plan.loop.steps)):
        told = editor.told(plan.conditioning, t, strength)
        x = editor.move(model, x, t, strength, told)
        steps = walk(
            model, x, plan.loop, conditioning=told, interventions=acting, start=index, generator=plan.generator
        )
        x = next(steps).x_next  # one step at a time: between two steps the editor may move the state
    return x


class Unedited(Editor):
    """Changes nothing at any strength: the reconstruction that edits are compared with."""

    unit = "nothing: it is the unedited image"
