"""The controls that stand beside CASL-Steer in every table, made from the same alignment and the same data.

`random_latent`     another living latent gates its own column of W
`random_direction`  the chosen latents gate random directions
`decoder_atom`      the chosen latents gate their SAE decoder atoms
`mean_difference`   mean activation with the concept minus without, the same vector at every position
`mean_difference_map`  the same, one vector for each position
`no_sae`            the map learned by the same loss on the activation itself

Each is scaled to CASL-Steer's mean shift, so that one alpha is one norm for all.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from sparsight.concepts.alignment import Alignment
from sparsight.errors import SparsightError
from sparsight.steering.interventions import Direction, LatentSteering, LinearMap, Steering

CONTROLS = ("random_latent", "random_direction", "decoder_atom", "mean_difference", "mean_difference_map", "no_sae")


def controls(
    casl: LatentSteering,
    alignment: Alignment,
    plain: Alignment | None,
    tokens: Tensor,
    labels: Tensor | None,
    seed: int = 0,
) -> dict[str, Steering]:
    """Every control that the data allow, scaled so that its mean shift at any alpha is that of `casl`.

    `plain` is the alignment on channels; `tokens` (M, N, C) are activations with concept `labels` (M,) bool.
    Without labels the mean differences are left out, without `plain` the map without an SAE.
    """
    generator = torch.Generator().manual_seed(seed)
    assert casl.directions is not None and casl.sae is not None
    noise = torch.randn(casl.directions.shape, generator=generator)
    found: dict[str, Steering] = {
        "random_latent": _random_latents(casl, alignment, generator),
        "random_direction": replace(casl, directions=_like(noise, casl.directions)),
        "decoder_atom": replace(casl, directions=_like(casl.sae.W_dec[list(casl.latents)], casl.directions)),
    }
    if labels is not None:
        difference = mean_difference(tokens, labels)
        found["mean_difference"] = Direction(casl.site, 1.0, casl.window, vector=difference.mean(0))
        found["mean_difference_map"] = Direction(casl.site, 1.0, casl.window, vector=difference)
    if plain is not None:
        found["no_sae"] = LinearMap(casl.site, 1.0, casl.window, sae=casl.sae, matrix=plain.W)
    wanted = mean_shift(casl, tokens)
    return {name: to_size(control, tokens, wanted) for name, control in found.items()}


def to_size(control: Steering, tokens: Tensor, wanted: float) -> Steering:
    """The control with a mean shift of `wanted`; one that shifts nothing on these tokens stays as it is."""
    size = mean_shift(control, tokens)
    return control.scaled(wanted / size) if size > 0 else control


def mean_difference(tokens: Tensor, labels: Tensor) -> Tensor:
    """Mean of tokens (M, N, C) where `labels` (M,) hold minus where they do not: (N, C)."""
    labels = labels.bool()
    if labels.all() or not labels.any():
        raise SparsightError("a mean difference needs images with the concept and images without it")
    return tokens[labels].mean(0) - tokens[~labels].mean(0)


def mean_shift(intervention: Steering, tokens: Tensor) -> float:
    """Mean over tokens (M, N, C) of the norm of the shift at strength 1."""
    shift = intervention.shift(tokens)
    return float(shift.expand(tokens.shape).norm(dim=-1).mean())


def _like(directions: Tensor, model: Tensor) -> Tensor:
    """`directions` (k, C) scaled row by row to the norms of `model`."""
    return directions / directions.norm(dim=1, keepdim=True).clamp_min(1e-12) * model.norm(dim=1, keepdim=True)


def _random_latents(casl: LatentSteering, alignment: Alignment, generator: torch.Generator) -> LatentSteering:
    """As many living latents as `casl` steers, drawn evenly, with their own columns of W."""
    alive = [i for i in torch.nonzero(alignment.mean_activation > 0)[:, 0].tolist() if i not in casl.latents]
    if len(alive) < len(casl.latents):
        raise SparsightError("too few latents ever fire for a random one to be drawn: train the SAE for longer")
    drawn = [alive[i] for i in torch.randperm(len(alive), generator=generator)[: len(casl.latents)].tolist()]
    return replace(casl, latents=tuple(drawn), directions=alignment.W[drawn])
