"""The controls beside spatial and global interventions, each with the mean shift of the edit that it controls.

`random_latents`     as many other living latents (all others where fewer live), with their own atoms, in the same place
`random_directions`  the same latents and codes, moved along random directions of the atoms' norms
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from sparsight.errors import SparsightError
from sparsight.steering.concept_edit import ConceptEdit, atoms

CONCEPT_CONTROLS = ("random_latents", "random_directions")


@torch.no_grad()
def concept_controls(
    edit: ConceptEdit, tokens: Tensor, *, t: Tensor | int | None = None, seed: int = 0
) -> dict[str, ConceptEdit]:
    """Both controls of `edit`, made on `tokens` (M, N, C) of its site, from the timestep `t`.

    They hold for the edit's own beta: what a spatial edit erases does not grow with beta, so make them again for
    another one. Raises `SparsightError` where no other latent fires on these tokens.
    """
    assert edit.directions is not None
    generator = torch.Generator().manual_seed(seed)
    drawn = _other_latents(edit, tokens, t, generator)
    noise = torch.randn(edit.directions.shape, generator=generator).to(edit.directions)
    norms = edit.directions.norm(dim=1, keepdim=True)
    assert edit.sae is not None
    found = {
        "random_latents": replace(edit, latents=drawn, directions=atoms(edit.sae, drawn)),
        "random_directions": replace(edit, directions=noise / noise.norm(dim=1, keepdim=True) * norms),
    }
    wanted = mean_change(edit, tokens, t)
    return {name: _to_size(control, tokens, t, wanted) for name, control in found.items()}


def mean_change(edit: ConceptEdit, tokens: Tensor, t: Tensor | int | None = None) -> float:
    """Mean over tokens (M, N, C) of the norm of what the edit adds at its own strength."""
    return float(edit.change(tokens, t).norm(dim=-1).mean())


def _to_size(control: ConceptEdit, tokens: Tensor, t: Tensor | int | None, wanted: float) -> ConceptEdit:
    size = mean_change(control, tokens, t)
    return control.scaled(wanted / size) if size > 0 else control


def _other_latents(
    edit: ConceptEdit, tokens: Tensor, t: Tensor | int | None, generator: torch.Generator
) -> tuple[int, ...]:
    assert edit.sae is not None
    x = tokens.to(edit.sae.mean.device, torch.float32)
    alive = [i for i in edit.sae.encode_sparse(x, t).indices.unique().tolist() if i not in edit.latents]
    if not alive:
        raise SparsightError("a control needs other latents than the edit's, but none fires on these tokens")
    count = min(len(edit.latents), len(alive))
    return tuple(alive[i] for i in torch.randperm(len(alive), generator=generator)[:count].tolist())
