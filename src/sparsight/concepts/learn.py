"""CASL stage 2: learn, for each concept, the linear map from latents to an edit of the activation.

L = 3 (1 - cos(E_I(x_edit) - E_I(x), E_T(target) - E_T(source))) + |x_edit - x_unedited|_1   (paper, eq. 6-8)

on one-step predictions of x0. What the paper leaves open is an option of `AlignConfig`; its defaults are the
judged ones. The maps of several concepts, and the control without an SAE, share all unedited work.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import islice

import torch
from torch import Tensor

from sparsight.activations.store import Store
from sparsight.concepts.alignment import Alignment
from sparsight.concepts.concept import Concept
from sparsight.concepts.paths import Add, AlignConfig, ClipModel, View, edit_loss, views
from sparsight.diffusion.model import DiffusionModel
from sparsight.errors import SparsightError
from sparsight.images import ImageSource
from sparsight.sae import SAE
from sparsight.sae.sparsity import SparseCode

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
    batches = views(model, store, images, clip, config, numbers)
    for done, view in enumerate(islice(batches, config.updates), 1):
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


def _update(model: DiffusionModel, sae: SAE, learner: _Learner, clip: ClipModel, site: str, view: View, x_t: Tensor,
            codes: dict[str, Code], config: AlignConfig) -> tuple[float, Tensor]:  # fmt: skip
    """One step of one concept: its loss, and where its edited path goes next."""
    eps, tokens = view.eps, view.tokens
    if x_t is not view.x_t:  # the edited path has left the unedited one, so its own code is needed
        with torch.no_grad(), model.capture([site]) as tape:
            eps = model.predict(x_t, view.t).eps
        tokens = tape[site]
        codes = _codes(sae, tokens)
    with model.edit([Add(site, learner.edit(codes[learner.basis], tokens.shape))]):
        edited = model.predict(x_t, view.t)
    loss = edit_loss(model, learner.direction, clip, view, edited.x0, config)
    learner.optimizer.zero_grad()
    loss.backward()
    learner.optimizer.step()
    with torch.no_grad():
        signal, sigma = model.schedule.levels(view.t_next, x_t)
        return loss.item(), (signal * edited.x0 + sigma * eps).detach()


def _finish(learner: _Learner, site: str, mean_activation: Tensor) -> Alignment:
    if not torch.isfinite(learner.W).all():
        raise SparsightError(f"the alignment of {learner.concept.name!r} diverged: lower its learning rate")
    if learner.basis == "channels":
        mean_activation = torch.ones(len(learner.W))
    return Alignment(learner.concept, site, learner.W.detach(), learner.b.detach(), mean_activation, learner.basis)
