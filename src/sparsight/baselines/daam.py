"""DAAM (Tang et al., ACL 2023, arXiv 2210.04885): where in its image each word of a prompt is, from cross-attention.

The softmax weights of the half that sees the prompt, averaged over heads, layers and steps, brought to one grid. A mask
provider for spatial edits, and what composition that is read from codes is compared with; it edits nothing itself.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sparsight.baselines.retelling import mentions
from sparsight.concepts.baselines import attention_maps, attention_scores
from sparsight.concepts.targets import Targets
from sparsight.diffusion.attention import Attention, listen_to_attention
from sparsight.diffusion.conditioning import Conditioning
from sparsight.diffusion.model import DiffusionModel
from sparsight.diffusion.sampling import Loop, walk
from sparsight.errors import SparsightError

COARSEST = 8  # layers whose grid is so many times smaller than the latents' are left out, as DAAM does


@torch.no_grad()
def daam_maps(
    model: DiffusionModel, noise: Tensor, conditioning: Conditioning, loop: Loop | None = None,
    *, grid: tuple[int, int] | None = None, until: int | None = None,
) -> Tensor:  # fmt: skip
    """Maps of the prompt's tokens in the images sampled from `noise` (B, c, h, w): (B, L, *grid) fp32, at least 0.

    `grid` is the latents' by default. `until` stops after so many steps, for what a composition looks like early on.
    Raises `SparsightError` for a model without cross-attention.
    """
    grid = grid or (noise.shape[-2], noise.shape[-1])
    if until is not None and until < 1:
        raise SparsightError(f"maps of {until} steps are asked for, but attention is heard from the first step on")
    total, heard_steps = torch.zeros(()), 0
    with listen_to_attention(model.denoiser) as heard:
        for _ in walk(model, noise, loop or Loop(), conditioning=conditioning):
            layers = chosen_layers(heard, len(noise), noise.shape[-2] * noise.shape[-1])
            total = total + attention_maps(layers, grid) / len(layers)
            heard_steps += 1
            if heard_steps == until:
                break
    return total / heard_steps


def chosen_layers(heard: Attention, images: int, positions: int) -> list[tuple[Tensor, tuple[int, int]]]:
    """The conditional rows of the layers that count, each with its grid; all where all are coarse."""
    layers = [(weights[-images:], grid) for weights, grid in heard.values()]
    fine = [one for one in layers if one[1][0] * one[1][1] * COARSEST**2 > positions]
    return fine or layers


def word_scores(model: DiffusionModel, maps: Tensor, prompts: Sequence[str], word: str) -> Tensor:
    """The map of a word (B, h, w), the mean over its tokens brought to [0, 1] by its minimum and maximum, from `daam_maps`.

    One prompt serves all images. Raises `SparsightError` for a prompt that does not say the word.
    """
    said = list(prompts) * len(maps) if len(prompts) == 1 else list(prompts)
    places = list(mentions(model, said, word))
    for prompt, own in zip(said, places, strict=True):
        if not own:
            raise SparsightError(f"the prompt {prompt!r} does not say {word!r}, so attention cannot tell where it is")
    images = torch.arange(len(maps))
    return attention_scores(maps, Targets(images, [word] * len(maps), torch.zeros(0), {}), places)


def word_mask(model: DiffusionModel, maps: Tensor, prompts: Sequence[str], word: str, threshold: float = 0.4) -> Tensor:
    """Where the word is: (B, h, w) bool. DAAM's own thresholds lie between 0.3 and 0.5. Raises as `word_scores` does."""
    return word_scores(model, maps, prompts, word) > threshold


def composition_scores(model: DiffusionModel, maps: Tensor, prompts: Sequence[str], targets: Targets) -> Tensor:
    """The scores (n, h, w) in [0, 1] of the nouns of `targets`, zeros for a noun that its prompt does not say.

    They go through the same thresholds and the same IoU as `ConceptReader.scores`. `prompts` has one for each image.
    """
    said = [prompts[image] for image in targets.image.tolist()]
    places = [
        next((p for form in (n, f"{n}s", f"{n}es") if (p := next(mentions(model, [prompt], form)))), [])
        for n, prompt in zip(targets.nouns, said, strict=True)
    ]
    return attention_scores(maps, targets, places)
