"""What every alignment learns from: batches of the unedited sampling path, the loss on an edited one, its options."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from sparsight.activations.store import Store
from sparsight.diffusion.model import DiffusionModel
from sparsight.diffusion.sites import Step
from sparsight.errors import SparsightError, unknown
from sparsight.images import ImageSource
from sparsight.metrics import directional_loss

OPTIONS = {
    "trajectory": ("walk", "inversion"), "optimizer": ("adam", "sgd"), "init": ("zeros", "linear"),
    "form": ("cosine", "log"), "clip_reference": ("image", "prediction"), "l1_reference": ("prediction", "image"),
}  # fmt: skip


class ClipModel(Protocol):
    """Two towers with one embedding space, both giving unit vectors."""

    def image(self, images: Tensor) -> Tensor:
        """Embeddings (B, d) of images (B, 3, H, W) in [-1, 1], differentiable."""
        ...

    def text(self, texts: list[str]) -> Tensor:
        """Embeddings (B, d) of texts."""
        ...


@dataclass(frozen=True)
class AlignConfig:
    """How to align. Numbers in brackets are the rows of the ambiguity list that each option answers.

    `trajectory` "walk" follows the edited path from the noisiest step down and updates at every step (5), as Asyrp
    does; "inversion" takes (image, t) pairs of the unedited path in random order: less faithful, half the cost.
    `clip_reference` and `l1_reference` say what the edited prediction is compared with (6). `form` is that of the
    directional loss (7). `init` of W (3), `optimizer` and `lr` (4). `updates` bounds the number of updates.
    """

    lambda_clip: float = 3.0
    lambda_recon: float = 1.0
    trajectory: str = "walk"
    clip_reference: str = "image"
    l1_reference: str = "prediction"
    form: str = "cosine"
    init: str = "zeros"
    optimizer: str = "adam"
    lr: float = 1e-3
    batch_size: int = 8
    updates: int = 2000
    seed: int = 0

    def __post_init__(self) -> None:
        for name, valid in OPTIONS.items():
            if getattr(self, name) not in valid:
                raise unknown(f"alignment {name}", getattr(self, name), valid)
        if min(self.batch_size, self.updates) < 1:
            raise SparsightError("alignment needs a batch and an update at least")


class Add:
    """Adds a given edit to a site's tokens."""

    def __init__(self, site: str, shift: Tensor) -> None:
        self.site, self.shift = site, shift

    def active(self, t: int) -> bool:
        """Always."""
        return True

    def __call__(self, tokens: Tensor, step: Step) -> Tensor:
        """Tokens (B, N, C) plus the edit."""
        return tokens + self.shift


class Reference(Protocol):
    """What an edited prediction is compared with."""

    @property
    def clip_image(self) -> Tensor:
        """Its embeddings (B, d)."""
        ...

    @property
    def l1_image(self) -> Tensor:
        """The images (B, 3, H, W)."""
        ...


@dataclass
class View:
    """One batch at one t on the unedited path, with everything that concepts share."""

    t: int
    t_next: int
    x_t: Tensor
    tokens: Tensor
    eps: Tensor
    clip_image: Tensor  # embedding of the reference
    l1_image: Tensor
    first: bool


def edit_loss(
    model: DiffusionModel,
    direction: tuple[Tensor, Tensor],
    clip: ClipModel,
    reference: Reference,
    x0: Tensor,
    config: AlignConfig,
) -> Tensor:
    """Eq. 8 of the edited prediction `x0` (B, c, h, w); `direction` holds the text embeddings of source and target."""
    image = model.decode(x0)
    toward = directional_loss(reference.clip_image, clip.image(image), *direction, form=config.form)
    return config.lambda_clip * toward + config.lambda_recon * (image - reference.l1_image).abs().mean()


def views(
    model: DiffusionModel,
    store: Store,
    images: ImageSource,
    clip: ClipModel,
    config: AlignConfig,
    numbers: Sequence[int] | None,
) -> Iterator[View]:
    """Endless batches of the unedited path: whole paths in order for "walk", single random timesteps for "inversion"."""
    generator = torch.Generator().manual_seed(config.seed)
    ids = list(numbers) if numbers is not None else store.images.tolist()
    stamps = sorted(store.spec.timesteps, reverse=True)
    following = dict(zip(stamps, [*stamps[1:], stamps[-1]], strict=True))
    while True:
        order = torch.randperm(len(ids), generator=generator).tolist()
        for start in range(0, len(order), config.batch_size):
            chosen = [ids[i] for i in order[start : start + config.batch_size]]
            path = _path(store, chosen)
            pictures = images.batch(chosen).to(model.device)
            pick = [stamps[int(torch.randint(len(stamps), (1,), generator=generator))]]
            for t in stamps if config.trajectory == "walk" else pick:
                yield _view(model, path[t], t, following[t], pictures, clip, store.spec.site, config, t == stamps[0])


def _path(store: Store, numbers: list[int]) -> dict[int, Tensor]:
    """x_t of these images by timestep, rows in the order of `numbers`."""
    columns = store.load("x_t", "image", "t", images=numbers)
    place = {(int(i), int(t)): row for row, (i, t) in enumerate(zip(columns["image"], columns["t"], strict=True))}
    return {t: columns["x_t"][[place[i, t] for i in numbers]] for t in store.spec.timesteps}


@torch.no_grad()
def _view(model: DiffusionModel, x_t: Tensor, t: int, t_next: int, pictures: Tensor, clip: ClipModel, site: str,
          config: AlignConfig, first: bool) -> View:  # fmt: skip
    x_t = x_t.to(model.device)
    with model.capture([site]) as tape:
        predicted = model.predict(x_t, t)
    image = model.decode(predicted.x0)
    reference = pictures if config.clip_reference == "image" else image
    l1 = image if config.l1_reference == "prediction" else pictures
    return View(t, t_next, x_t, tape[site], predicted.eps, clip.image(reference), l1, first)
