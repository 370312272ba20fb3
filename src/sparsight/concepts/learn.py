"""CASL stage 2: learn, for each concept, the linear map from latents to an edit of the activation.

L = 3 (1 - cos(E_I(x_edit) - E_I(x), E_T(target) - E_T(source))) + |x_edit - x_unedited|_1   (paper, eq. 6-8)

on one-step predictions of x0. What the paper leaves open is an option of `AlignConfig`; its defaults are the
judged ones. The maps of several concepts, and the control without an SAE, share all unedited work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

import torch
from torch import Tensor

from sparsight.activations.store import Store
from sparsight.concepts.alignment import Alignment
from sparsight.concepts.concept import Concept
from sparsight.diffusion.model import DiffusionModel
from sparsight.diffusion.sites import Step
from sparsight.errors import SparsightError, unknown
from sparsight.images import ImageSource
from sparsight.metrics import directional_loss
from sparsight.sae import SAE
from sparsight.sae.sparsity import SparseCode

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


Code = SparseCode | Tensor


class _Learner:
    """The map of one concept while it is being learned."""

    def __init__(
        self,
        concept: Concept,
        basis: str,
        rows: int,
        channels: int,
        direction: tuple[Tensor, Tensor],
        config: AlignConfig,
    ) -> None:
        self.concept, self.basis, self.direction = concept, basis, direction
        generator = torch.Generator().manual_seed(config.seed)
        scale = 0.0 if config.init == "zeros" else rows**-0.5
        self.W = (scale * (2 * torch.rand(rows, channels, generator=generator) - 1)).requires_grad_()
        self.b = torch.zeros(channels, requires_grad=True)
        adam = config.optimizer == "adam"
        self.optimizer = (
            torch.optim.Adam([self.W, self.b], lr=config.lr, fused=True)
            if adam
            else torch.optim.SGD([self.W, self.b], lr=config.lr)
        )

    def edit(self, code: Code, shape: torch.Size) -> Tensor:
        product = code.matmul(self.W) if isinstance(code, SparseCode) else code @ self.W
        return (product + self.b).reshape(shape)


class _Add:
    """Adds a given edit to a site's tokens."""

    def __init__(self, site: str, shift: Tensor) -> None:
        self.site, self.shift = site, shift

    def active(self, t: int) -> bool:
        return True

    def __call__(self, tokens: Tensor, step: Step) -> Tensor:
        return tokens + self.shift


@dataclass
class _View:
    """One batch at one t on the unedited path, with everything that concepts share."""

    t: int
    t_next: int
    x_t: Tensor
    tokens: Tensor
    eps: Tensor
    clip_image: Tensor  # embedding of the reference
    l1_image: Tensor
    first: bool


def align(
    model: DiffusionModel, sae: SAE, store: Store, images: ImageSource, concepts: Sequence[Concept], clip: ClipModel,
    config: AlignConfig | None = None, *, without_sae: bool = False, numbers: Sequence[int] | None = None,
    progress: Callable[[int, int, Mapping[str, float]], None] | None = None,
) -> dict[tuple[str, str], Alignment]:  # fmt: skip
    """Learn one `Alignment` per concept from a store harvested with its `x_t`; keys are (concept, basis).

    `without_sae` also learns the control whose code is the normalised activation itself (basis "channels").
    `numbers` restricts the images. `progress(update, total, losses)` reports each concept's loss.
    """
    config = config or AlignConfig()
    store.require(model_hash=model.fingerprint(), site=store.spec.site)
    bases = ("latents", "channels") if without_sae else ("latents",)
    learners = [_learner(c, basis, sae, clip, config) for c in concepts for basis in bases]
    activity, seen = torch.zeros(sae.config.d_sae), 0
    paths: dict[int, Tensor] = {}
    views = _views(model, store, images, clip, config, numbers)
    for done, view in enumerate(islice(views, config.updates), 1):
        codes = _codes(sae, view.tokens)
        sparse = codes["latents"]
        assert isinstance(sparse, SparseCode)
        activity.index_add_(0, sparse.indices, sparse.values)
        seen += view.tokens.shape[0] * view.tokens.shape[1]
        paths = {} if view.first else paths
        losses = {}
        for key, learner in enumerate(learners):
            x_t = paths.get(key, view.x_t)
            losses[learner.concept.name], follow = _update(
                model, sae, learner, clip, store.spec.site, view, x_t, codes, config
            )
            if config.trajectory == "walk":
                paths[key] = follow
        if progress is not None:
            progress(done, config.updates, losses)
    return {(one.concept.name, one.basis): _finish(one, store.spec.site, activity / max(seen, 1)) for one in learners}


def _learner(concept: Concept, basis: str, sae: SAE, clip: ClipModel, config: AlignConfig) -> _Learner:
    with torch.no_grad():
        source, target = clip.text([concept.source, concept.target])
    rows = sae.config.d_sae if basis == "latents" else sae.config.d_in
    return _Learner(concept, basis, rows, sae.config.d_in, (source, target), config)


@torch.no_grad()
def _codes(sae: SAE, tokens: Tensor) -> dict[str, Code]:
    return {"latents": sae.encode_sparse(tokens), "channels": sae.normalise(tokens).reshape(-1, tokens.shape[-1])}


def _update(model: DiffusionModel, sae: SAE, learner: _Learner, clip: ClipModel, site: str, view: _View, x_t: Tensor,
            codes: dict[str, Code], config: AlignConfig) -> tuple[float, Tensor]:  # fmt: skip
    """One step of one concept: its loss, and where its edited path goes next."""
    eps, tokens = view.eps, view.tokens
    if x_t is not view.x_t:  # the edited path has left the unedited one, so its own code is needed
        with torch.no_grad(), model.capture([site]) as tape:
            eps = model.predict(x_t, view.t).eps
        tokens = tape[site]
        codes = _codes(sae, tokens)
    with model.edit([_Add(site, learner.edit(codes[learner.basis], tokens.shape))]):
        edited = model.predict(x_t, view.t)
    loss = _loss(model, learner, clip, view, edited.x0, config)
    learner.optimizer.zero_grad()
    loss.backward()
    learner.optimizer.step()
    with torch.no_grad():
        signal, sigma = model.schedule.levels(view.t_next, x_t)
        return loss.item(), (signal * edited.x0 + sigma * eps).detach()


def _loss(
    model: DiffusionModel, learner: _Learner, clip: ClipModel, view: _View, x0: Tensor, config: AlignConfig
) -> Tensor:
    image = model.decode(x0)
    source, target = learner.direction
    toward = directional_loss(view.clip_image, clip.image(image), source, target, form=config.form)
    return config.lambda_clip * toward + config.lambda_recon * (image - view.l1_image).abs().mean()


def _views(
    model: DiffusionModel,
    store: Store,
    images: ImageSource,
    clip: ClipModel,
    config: AlignConfig,
    numbers: Sequence[int] | None,
) -> Iterator[_View]:
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
          config: AlignConfig, first: bool) -> _View:  # fmt: skip
    x_t = x_t.to(model.device)
    with model.capture([site]) as tape:
        predicted = model.predict(x_t, t)
    image = model.decode(predicted.x0)
    reference = pictures if config.clip_reference == "image" else image
    l1 = image if config.l1_reference == "prediction" else pictures
    return _View(t, t_next, x_t, tape[site], predicted.eps, clip.image(reference), l1, first)


def _finish(learner: _Learner, site: str, mean_activation: Tensor) -> Alignment:
    if not torch.isfinite(learner.W).all():
        raise SparsightError(f"the alignment of {learner.concept.name!r} diverged: lower its learning rate")
    if learner.basis == "channels":
        mean_activation = torch.ones(len(learner.W))
    return Alignment(learner.concept, site, learner.W.detach(), learner.b.detach(), mean_activation, learner.basis)
