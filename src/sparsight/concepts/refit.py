"""Learn the columns of a few kept latents again, alone.

In an alignment all active latents share the edit, so a column alone explains only its part of it, and steering with it
alone pushes it far beyond where it was learned. Refitting is what is done after a sparse selection elsewhere (the
relaxed lasso, Meinshausen 2007): keep the choice, and fit the chosen few without the penalty of having shared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import islice

import torch
from torch import Tensor

from sparsight.activations.store import Store
from sparsight.concepts.alignment import Alignment
from sparsight.concepts.paths import Add, AlignConfig, ClipModel, edit_loss, views
from sparsight.diffusion.model import DiffusionModel
from sparsight.images import ImageSource
from sparsight.sae import SAE

SHIFT = 0.02  # mean norm of the edit at the start, as a share of the tokens' norm: where edits begin to show
RATE = 0.1  # Adam's step, as a share of the columns' root-mean-square entry


def refit(
    model: DiffusionModel, sae: SAE, store: Store, images: ImageSource, alignment: Alignment, latents: Sequence[int],
    clip: ClipModel, config: AlignConfig | None = None, *, updates: int = 40, numbers: Sequence[int] | None = None,
) -> Tensor:  # fmt: skip
    """Columns (k, C) for `latents` alone, learned by the alignment's own loss; as large together as they were.

    Starts from the alignment's columns, scaled so that the mean shift is a fiftieth of the tokens' norm. `config` gives
    loss, batch size and seed; timesteps are drawn at random from the store's. Latents that fire on none of the images keep
    their columns.
    """
    config = replace(config or AlignConfig(), trajectory="inversion")
    with torch.no_grad():
        source, target = clip.text([alignment.concept.source, alignment.concept.target])
    columns, optimizer = alignment.W[list(latents)].clone(), None
    for view in islice(views(model, store, images, clip, config, numbers), updates):
        with torch.no_grad():
            z = sae.encode_latents(view.tokens, list(latents))
        if optimizer is None:
            shift = (z @ columns).norm(dim=-1).mean()
            if shift == 0:
                continue  # nothing fires on this batch, so it has nothing to say
            columns *= SHIFT * view.tokens.norm(dim=-1).mean() / shift
            rate = RATE * float(columns.square().mean().sqrt())
            optimizer = torch.optim.Adam([columns.requires_grad_()], lr=rate)
        with model.edit([Add(store.spec.site, z @ columns)]):
            edited = model.predict(view.x_t, view.t)
        loss = edit_loss(model, (source, target), clip, view, edited.x0, config)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return _with_norms_of(columns.detach(), alignment.W[list(latents)])


def _with_norms_of(columns: Tensor, model: Tensor) -> Tensor:
    """`columns` scaled to the size of `model`: strengths keep their meaning, rows their proportions."""
    return columns * (model.norm() / columns.norm().clamp_min(1e-12))
