"""Edit a user's own picture with what a run has learned."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sparsight.concepts import choose
from sparsight.diffusion import Loop, sample
from sparsight.errors import SparsightError
from sparsight.files import atomic, read_json
from sparsight.images import read_image, to_pixels
from sparsight.pipeline.editing import inverted, window
from sparsight.pipeline.openers import open_alignment, open_sae
from sparsight.steering import casl_steer, steer_together

if TYPE_CHECKING:
    from sparsight.pipeline.run import Run


@torch.no_grad()
def steer_image(
    run: Run, path: Path, concepts: Sequence[str], alphas: Sequence[float] | None = None, k: int | None = None
) -> tuple[Tensor, Tensor]:
    """The picture's reconstruction and its edit, each (1, 3, H, W) in [-1, 1]; several concepts act together.

    Raises `SparsightError` for a concept that the run has not aligned, a picture of another size, or as many
    alphas as concepts not being given.
    """
    known = {name: run.world.concepts[name] for name in run.recipe.concepts if name in run.world.concepts}
    chosen = choose(concepts, known)
    if alphas and len(alphas) != len(chosen):
        raise SparsightError(f"{len(alphas)} alphas are given for {len(chosen)} concepts: give one for each, or none")
    picture = read_image(path, run.model.image_size)
    strengths = list(alphas) if alphas else [_chosen(run, c.name) for c in chosen]
    sae, config = open_sae(run), run.recipe.steer
    methods = [
        casl_steer(sae, open_alignment(run, c.name), alpha=a, window=window(run), latents=_latents(run, c.name, k or config.k))
        for c, a in zip(chosen, strengths, strict=True)
    ]  # fmt: skip
    noise, loop = inverted(run, picture), Loop(steps=config.steps, mode=config.mode)
    before = run.model.decode(sample(run.model, noise, loop))
    after = run.model.decode(sample(run.model, noise, loop, interventions=steer_together(methods)))
    return before.clamp(-1, 1), after.clamp(-1, 1)


def _chosen(run: Run, name: str) -> float:
    path = run.folder / "concepts" / name / "steer.json"
    if not path.exists():
        raise SparsightError(f"{run.folder} has chosen no strength for {name!r} yet: give --alpha")
    return float(read_json(path)["methods"]["casl"]["alpha"])


def _latents(run: Run, name: str, k: int) -> list[int]:
    """The latents that the run steers, or the alignment's own top k where it has chosen none or fewer."""
    path = run.folder / "concepts" / name / "steer.json"
    order = read_json(path)["order"] if path.exists() else []
    return order[:k] if len(order) >= k else open_alignment(run, name).top(k, run.recipe.steer.ranking)


def write_pair(path: Path, before: Tensor, after: Tensor) -> None:
    """Write the two pictures side by side as one PNG."""
    from PIL import Image

    with atomic(path) as temporary:
        Image.fromarray(to_pixels(torch.cat([before, after], dim=3))[0]).save(temporary, format="PNG")
