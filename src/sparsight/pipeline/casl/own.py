"""Edit a user's own picture with what a run has learned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file
from torch import Tensor

from sparsight.concepts import choose
from sparsight.diffusion import Loop, sample
from sparsight.errors import SparsightError
from sparsight.files import read_json
from sparsight.images import read_image
from sparsight.pipeline.casl.editing import inverted, window
from sparsight.pipeline.casl.openers import concept_folder, open_alignment, open_sae
from sparsight.sae import SAE
from sparsight.steering import LatentSteering, casl_steer, steer_together

if TYPE_CHECKING:
    from sparsight.pipeline.casl.run import CaslRun


@torch.no_grad()
def steer_image(
    run: CaslRun, path: Path, concepts: Sequence[str], alphas: Sequence[float] | None = None, k: int | None = None
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
    methods = [_method(run, sae, c.name, k or config.k).at(a) for c, a in zip(chosen, strengths, strict=True)]
    noise, loop = inverted(run, picture), Loop(steps=config.steps, mode=config.mode)
    before = run.model.decode(sample(run.model, noise, loop))
    after = run.model.decode(sample(run.model, noise, loop, interventions=steer_together(methods)))
    return before.clamp(-1, 1), after.clamp(-1, 1)


def _chosen(run: CaslRun, name: str) -> float:
    path = run.folder / "concepts" / name / "steer.json"
    if not path.exists():
        raise SparsightError(f"{run.folder} has chosen no strength for {name!r} yet: give --alpha")
    return float(read_json(path)["methods"]["casl"]["alpha"])


def _method(run: CaslRun, sae: SAE, name: str, k: int) -> LatentSteering:
    """CASL-Steer as the run chose it; for another k, or before it has chosen, the alignment's own columns."""
    folder, alignment = concept_folder(run, name), open_alignment(run, name)
    order = read_json(folder / "steer.json")["order"] if (folder / "steer.json").exists() else []
    if len(order) < k:
        return casl_steer(sae, alignment, k=k, ranking=run.recipe.steer.ranking, window=window(run))
    casl = casl_steer(sae, alignment, latents=order[:k], window=window(run))
    return (
        replace(casl, directions=load_file(folder / "steer.safetensors")["directions"])
        if k == run.recipe.steer.k
        else casl
    )
