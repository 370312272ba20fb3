"""Where layout is decided: swap what an attention block writes between two runs of one prompt, and see what follows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sparsight.pipeline.reporter import Reporter
from sparsight.worlds.scenes.annotators import boxes, segments
from sparsight.worlds.scenes.generate import (
    STAGES,
    attention_blocks,
    generate,
    recording,
    replacing,
    stage_steps,
)
from sparsight.worlds.scenes.world import ScenesWorld


def centers(world: ScenesWorld, images: Tensor) -> list[dict[str, Tensor]]:
    """Middle (x, y) in pixels of each kind that the segmenter finds in each image (B, 3, 64, 64)."""
    found = boxes(segments(world.segmenter, images))
    return [{k: torch.tensor([(b[0] + b[2]) / 2, (b[1] + b[3]) / 2]) for k, b in one.items()} for one in found]


def followed(own: Tensor, donor: Tensor, swapped: Tensor) -> float:
    """How far images went from `own` to `donor`, 0 to 1, by squared distances of pixels; the mean over images."""
    to_donor = (swapped - donor).square().flatten(1).sum(1)
    to_own = (swapped - own).square().flatten(1).sum(1)
    return float((to_own / (to_own + to_donor).clamp_min(1e-9)).mean())


def objects_followed(
    world: ScenesWorld, own: Tensor, donor: Tensor, swapped: Tensor, apart: float = 16
) -> dict[str, Any]:
    """Of objects seen in all three and at least `apart` pixels from own to donor place: the share nearer the donor's."""
    nearer = []
    for a, b, c in zip(*(centers(world, images) for images in (own, donor, swapped)), strict=True):
        for kind in a.keys() & b.keys() & c.keys():
            if (a[kind] - b[kind]).norm() >= apart:
                nearer.append(bool((c[kind] - b[kind]).norm() < (c[kind] - a[kind]).norm()))
    return {"share": sum(nearer) / len(nearer) if nearer else None, "n": len(nearer)}


def swap_table(
    world: ScenesWorld, report: Reporter, count: int = 32, steps: int = 25, bf16: bool = False
) -> dict[str, Any]:
    """For each attention block and stage: how much of the picture, and which objects, follow the donor's writing."""
    pipeline = world.pipeline()
    prompts = world.source("held-out").prompts(range(count))
    noise = torch.randn(2, count, *_latent_shape(pipeline), generator=torch.Generator().manual_seed(1))
    blocks = attention_blocks(pipeline.unet)
    found: dict[str, Any] = {}
    own = generate(pipeline, prompts, noise[0], steps=steps, bf16=bf16)
    for index, (name, block) in enumerate(blocks.items()):
        with recording(block) as writing:
            donor = generate(pipeline, prompts, noise[1], steps=steps, bf16=bf16)
        found[name] = {}
        for stage in (*STAGES, "all"):
            report.update(index, len(blocks), f"{name}, {stage}")
            at = range(steps) if stage == "all" else stage_steps(stage, steps)
            with replacing(block, writing, at):
                swapped = generate(pipeline, prompts, noise[0], steps=steps, bf16=bf16)
            found[name][stage] = {
                "image": followed(own, donor, swapped), "objects": objects_followed(world, own, donor, swapped)
            }  # fmt: skip
    return {"n": count, "steps": steps, "blocks": found}


def _latent_shape(pipeline: Any) -> tuple[int, int, int]:
    config = pipeline.unet.config
    return config.in_channels, config.sample_size, config.sample_size
