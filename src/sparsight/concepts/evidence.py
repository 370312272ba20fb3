"""Reads nouns from the codes of one step as evidence: which latents are active on a thing more often than beside it.

It stands beside the paper's reading through words (`composition.py`) and is ours. A dictionary's entry keeps a latent only
where its whole map meets a whole mask, and word vectors blur what the entries say; both cost most at the first step, where
maps are ragged. Here every position of annotated images counts. With p_co the share of noun o's positions at which latent c
is active and q_co that of all others, and latents taken for independent (naive Bayes):

    logit P(o | z) = logit prior_o + sum_{c active} log(p_co / q_co) + sum_{c not active} log((1 - p_co) / (1 - q_co))

`prior_o` is the noun's mean share of an image that it is in: as in all readings, it is known that the image has it. Latents of
one place repeat each other, so that this is far too sure; the log odds are therefore divided by `temper`, which changes no
order of positions.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sparsight.concepts.annotation import Annotation, united
from sparsight.concepts.maps import coverage, require_latents
from sparsight.concepts.targets import Targets
from sparsight.errors import SparsightError
from sparsight.sae.sparsity import SparseCode


class Evidence:
    """Counts where latents are active, a batch of annotated images at a time, then reads codes.

    `latents` is the SAE's number of latents, `grid` (height, width) of its maps, `labels` the nouns. A position belongs to
    a mask by the share of it that the mask covers. Every noun is given `smoothing` positions of the overall rates beforehand.
    """

    def __init__(
        self, latents: int, grid: tuple[int, int], labels: Sequence[str], smoothing: float = 5.0, temper: float = 4.0
    ) -> None:
        self.grid, self.labels = grid, list(dict.fromkeys(labels))
        self.smoothing, self.temper = smoothing, temper
        self.inside = torch.zeros(latents, len(self.labels), dtype=torch.float64)
        self.active = torch.zeros(latents, dtype=torch.float64)
        self.covered = torch.zeros(len(self.labels), dtype=torch.float64)
        self.images = torch.zeros(len(self.labels), dtype=torch.float64)
        self.positions = 0

    def add(self, code: SparseCode, objects: Sequence[Sequence[Annotation]]) -> None:
        """Add a batch: the code of all its images' tokens, and the objects of each image.

        Raises `SparsightError` for codes of another grid or SAE.
        """
        self._require(code, len(objects))
        share = torch.cat([self._shares(own) for own in objects]).double()
        indices, tokens = code.indices.cpu(), code.tokens.cpu()
        self.inside.index_add_(0, indices, share[tokens])
        self.active += torch.bincount(indices, minlength=len(self.active))
        self.covered += share.sum(0)
        self.images += share.view(len(objects), -1, len(self.labels)).any(1).sum(0)
        self.positions += len(share)

    def rates(self) -> tuple[Tensor, Tensor]:
        """p and q: how often each latent is active on each noun's positions and on all others, (latents, labels) fp64.

        Raises `SparsightError` before any image was added.
        """
        if not self.positions:
            raise SparsightError("the evidence of latents has seen no annotated image")
        rate = (self.active / self.positions).clamp(1e-6, 1 - 1e-6)[:, None]
        within = (self.inside + self.smoothing * rate) / (self.covered + self.smoothing)
        outside, others = self.active[:, None] - self.inside, self.positions - self.covered
        beside = (outside + self.smoothing * rate) / (others + self.smoothing)
        return within.clamp(1e-6, 1 - 1e-6), beside.clamp(1e-6, 1 - 1e-6)

    def best(self, label: str, most: int = 0) -> list[int]:
        """The `most` (0: all) latents that speak most for a label, ascending: those with the largest p log(p / q) above 0.

        None for a label that was never seen. It is what an active latent adds to the log odds, times how often it is
        active on the label: a latent that is rare there is of no use to an edit, however sure.
        """
        if label not in self.labels or not self.covered[self.labels.index(label)]:
            return []
        within, beside = (rate[:, self.labels.index(label)] for rate in self.rates())
        gain = within * (within / beside).log()
        order = gain.argsort(descending=True, stable=True)[: most or None]
        return sorted(order[gain[order] > 0].tolist())

    def weights(self) -> tuple[Tensor, Tensor]:
        """What an active latent adds to each noun's log odds, (latents, labels), and the log odds where none is, (labels,).

        A noun that was never seen has no evidence: 0 everywhere. Errors as in `rates`.
        """
        within, beside = self.rates()
        idle = ((1 - within) / (1 - beside)).log()
        prior = (self.covered / (self.images * self.grid[0] * self.grid[1]).clamp_min(1)).clamp(1e-6, 1 - 1e-6)
        seen = self.covered > 0
        return (((within / beside).log() - idle) * seen).float(), ((idle.sum(0) + prior.logit()) * seen).float()

    def scores(self, code: SparseCode, targets: Targets) -> Tensor:
        """How surely each position of its image is of a target's noun, (n, h, w) in [0, 1]; 1/2 for a noun unseen."""
        positions = self.grid[0] * self.grid[1]
        images = (len(code.offsets) - 1) // positions
        self._require(code, images)
        if len(targets.image) and int(targets.image.max()) >= images:
            raise SparsightError(
                f"the codes are of {images} images, but a target is in image {int(targets.image.max())}"
            )
        added, idle = self.weights()
        binary = SparseCode(code.indices.cpu(), torch.ones(len(code.indices)), code.offsets.cpu())
        odds = (binary.matmul(added) + idle).view(images, *self.grid, len(self.labels))
        places = [self.labels.index(n) if n in self.labels else -1 for n in targets.nouns]
        blank = torch.zeros(self.grid)
        maps = [odds[i, ..., p] if p >= 0 else blank for i, p in zip(targets.image.tolist(), places, strict=True)]
        return (torch.stack(maps) / self.temper).sigmoid() if maps else torch.zeros(0, *self.grid)

    def _shares(self, objects: Sequence[Annotation]) -> Tensor:
        """How much of each position every noun covers, (positions, labels)."""
        masks, share = united(objects), torch.zeros(self.grid[0] * self.grid[1], len(self.labels))
        for place, label in enumerate(self.labels):
            if label in masks:
                share[:, place] = coverage(masks[label], self.grid)
        return share

    def _require(self, code: SparseCode, images: int) -> None:
        tokens, positions = len(code.offsets) - 1, self.grid[0] * self.grid[1]
        if tokens != images * positions:
            raise SparsightError(
                f"the codes hold {tokens} tokens, which are not {images} images' whole grids of {self.grid[0]}x{self.grid[1]}"
            )
        require_latents(code, len(self.active))
