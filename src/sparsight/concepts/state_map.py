"""CASL carried from the activation to the state: its latents say where a concept is, its loss says what to change there.

An edit of an activation acts on one prediction at a time. An edit of the state x_t at one step is seen by the whole
network from there on, which makes it part of the picture; BoundaryDiffusion's push of x_t owes its lead to that.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from sparsight.concepts.alignment import Alignment
from sparsight.concepts.paths import AlignConfig, ClipModel, edit_loss
from sparsight.diffusion.model import DiffusionModel
from sparsight.errors import SparsightError
from sparsight.sae import SAE


@dataclass(frozen=True)
class StateConfig:
    """How a state map is learned: `updates` of Adam at rate `lr` on batches of images; the weights of CASL's loss."""

    updates: int = 60
    batch_size: int = 8
    lr: float = 0.02
    lambda_clip: float = 3.0
    lambda_recon: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.batch_size, self.updates) < 1:
            raise SparsightError("a state map needs a batch and an update at least")


class Unedited(NamedTuple):
    """Unedited predictions of x0 as the loss sees them: CLIP's embeddings (n, d) and the images (n, 3, H, W)."""

    clip_image: Tensor
    l1_image: Tensor


@torch.no_grad()
def located(tokens: Tensor, sae: SAE, alignment: Alignment, share: float = 0.8) -> Tensor:
    """Where CASL's edit of tokens (M, N, C) is: bool (N,), the fewest positions that hold `share` of it.

    A position counts for the mean norm of its edit, sum_i z_i W_i (paper, eq. 6), above that of the median position:
    what the edit does everywhere says nothing about a place. Raises `SparsightError` for a share out of (0, 1] and for an
    edit without a place.
    """
    if not 0 < share <= 1:
        raise SparsightError(f"the share of an edit is {share}, but must lie above 0 and at most at 1")
    edits = sae.encode_sparse(tokens).matmul(alignment.W)
    sizes = edits.norm(dim=-1).reshape(tokens.shape[:-1]).mean(0)
    rest = (sizes - sizes.median()).clamp_min(0)
    if not float(rest.sum()):
        raise SparsightError(f"the edit of {alignment.concept.name!r} has no place: it is as strong at every position")
    order = rest.argsort(descending=True)
    held = rest[order].cumsum(0) / rest.sum()
    kept = torch.zeros_like(rest, dtype=torch.bool)
    kept[order[: int((held < share - 1e-6).sum()) + 1]] = True
    return kept


def learn_state_map(
    model: DiffusionModel, states: Tensor, t: int, direction: tuple[Tensor, Tensor], clip: ClipModel, where: Tensor,
    config: StateConfig | None = None,
) -> Tensor:  # fmt: skip
    """The change (c, h, w) of x_t, zero outside `where` (h, w) bool, under which CASL's loss (eq. 8) is least.

    `states` (n, c, h, w) are x_t at timestep `t`; `direction` holds the text embeddings of source and target. The edited
    one-step prediction is compared with the unedited one. Raises `SparsightError` where training diverges.
    """
    config = config or StateConfig()
    loss = AlignConfig(lambda_clip=config.lambda_clip, lambda_recon=config.lambda_recon)
    seen = unedited(model, states, t, clip)
    change = torch.zeros(states.shape[1:], device=states.device, requires_grad=True)
    optimizer = torch.optim.Adam([change], lr=config.lr)
    for pick in _batches(len(states), config):
        x0 = model.predict(states[pick] + change * where, t).x0
        part = Unedited(*(column[pick] for column in seen))
        optimizer.zero_grad()
        edit_loss(model, direction, clip, part, x0, loss).backward()
        optimizer.step()
    if not torch.isfinite(change).all():
        raise SparsightError("the state map diverged: lower its lr")
    return (change * where).detach()


@torch.no_grad()
def unedited(model: DiffusionModel, states: Tensor, t: int, clip: ClipModel, size: int = 32) -> Unedited:
    """What states (n, c, h, w) at timestep `t` show before they are edited."""
    images = torch.cat([model.decode(model.predict(part, t).x0) for part in states.split(size)])
    return Unedited(torch.cat([clip.image(part) for part in images.split(size)]), images)


def _batches(count: int, config: StateConfig) -> Iterator[Tensor]:
    dice, left = torch.Generator().manual_seed(config.seed), config.updates
    while left:
        for pick in torch.randperm(count, generator=dice).split(config.batch_size)[:left]:
            left -= 1
            yield pick
