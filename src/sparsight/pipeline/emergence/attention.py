"""Cross-attention maps of the run's images at each stage: the way to a composition that needs no SAE."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sparsight.concepts.baselines import attention_maps
from sparsight.diffusion import Loop, walk
from sparsight.diffusion.attention import listen_to_attention

if TYPE_CHECKING:
    from sparsight.pipeline.emergence.run import EmergenceRun


@torch.no_grad()
def attention_of(run: EmergenceRun, numbers: list[int]) -> dict[str, Tensor]:
    """For each stage (images, words, 16, 16): heads averaged, layers summed, of the half that sees the prompt."""
    kept: dict[str, list[Tensor]] = {stage: [] for stage in run.steps_at}
    at = {step: stage for stage, step in run.steps_at.items()}
    size, loop = run.recipe.sampling.batch_size, Loop(run.recipe.sampling.steps, mode="plain")
    grid = (run.model.latent_shape[1], run.model.latent_shape[2])
    for start in range(0, len(numbers), size):
        part = numbers[start : start + size]
        with listen_to_attention(run.model.denoiser) as heard:
            moments = walk(run.model, run.noise(part), loop, conditioning=run.told(run.prompts.batch(part)))
            for moment in moments:
                if moment.index in at:
                    layers = [(weights[-len(part) :], own) for weights, own in heard.values()]
                    kept[at[moment.index]].append(attention_maps(layers, grid).half())
    return {stage: torch.cat(maps).float() for stage, maps in kept.items()}
