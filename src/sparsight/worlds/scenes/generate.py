"""Pictures from prompts with the world's pipeline, and the swap of what one attention block writes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from sparsight.worlds.judging import fast

GUIDANCE, STEPS = 7.5, 50
STAGES = {"early": (0.6, 1.0), "middle": (0.2, 0.6), "final": (0.0, 0.2)}
"""Spans of t, 1 being noise, as in the paper."""


def stage_steps(stage: str, steps: int) -> range:
    """The steps of a stage: with 50, steps 0 to 19 are early, 20 to 39 middle, 40 to 49 final."""
    low, high = STAGES[stage]
    return range(round((1 - high) * steps), round((1 - low) * steps))


@torch.no_grad()
def generate(
    pipeline: Any, prompts: Sequence[str], noise: Tensor, *, steps: int = STEPS, guidance: float = GUIDANCE,
    bf16: bool = False,
) -> Tensor:  # fmt: skip
    """Pictures (B, 3, 64, 64) in [-1, 1] of prompts, from noise (B, 8, 16, 16)."""
    with fast(enabled=bf16):
        found = pipeline(
            list(prompts), latents=noise, num_inference_steps=steps, guidance_scale=guidance, output_type="pt"
        ).images
    return found.float() * 2 - 1


@dataclass
class Writing:
    """What a block wrote, output minus input, at each step of a run: (2 B, C, H, W), the unguided half first."""

    steps: list[Tensor] = field(default_factory=list)


@contextmanager
def recording(block: nn.Module) -> Iterator[Writing]:
    """Keep what `block` writes in the runs of the pipeline inside this context."""
    kept = Writing()

    def hook(_module: nn.Module, args: tuple, output: Any) -> None:
        kept.steps.append(output[0] - args[0])

    with _hooked(block, hook):
        yield kept


@contextmanager
def replacing(block: nn.Module, writing: Writing, at: range) -> Iterator[None]:
    """At the steps `at` of one run of the pipeline, let `block` write what `writing` has instead of its own."""
    step = iter(range(len(writing.steps)))

    def hook(_module: nn.Module, args: tuple, output: Any) -> Any:
        now = next(step)
        return (args[0] + writing.steps[now], *output[1:]) if now in at else output

    with _hooked(block, hook):
        yield


@contextmanager
def _hooked(block: nn.Module, hook: Any) -> Iterator[None]:
    handle = block.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def attention_blocks(unet: nn.Module) -> dict[str, nn.Module]:
    """The cross-attention blocks of a U-Net by path, from input to output."""
    from diffusers.models.transformers.transformer_2d import Transformer2DModel

    return {name: module for name, module in unet.named_modules() if isinstance(module, Transformer2DModel)}
