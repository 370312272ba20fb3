"""Haas et al. (FG 2024, arXiv 2303.11073): semantic directions in the bottleneck, three ways to find them.

All are one tensor of tokens (N, C) for each timestep, added at every step of the window. The paper steps plainly.
Unsupervised directions have no name; a fair comparison needs one, so `named` picks the direction, and its sign, that lies
closest to the labelled difference of means. That choice is ours, and the only thing those two take labels for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsight.baselines.data import FitData
from sparsight.baselines.difference import halves, timed_editor, weighted_sums
from sparsight.baselines.jacobian import noise_of_site, subspace
from sparsight.baselines.method import GRADIENTS, LABELS, STORE, Editor, Method
from sparsight.concepts.concept import Concept
from sparsight.errors import SparsightError

PAPER = "arXiv 2303.11073"


@dataclass(frozen=True)
class HaasSupervised(Method):
    """Mean of the `extremes` images that show the concept most minus the mean of those that show it least (section 3.3).

    Labels that are scores choose the extremes; with plain yes or no as many of either kind are taken. The directions of
    the concepts `against` are projected out, timestep by timestep (section 3.3.1).
    """

    name = "haas_supervised"
    title = "Haas et al., supervised"
    paper = PAPER
    needs = frozenset({LABELS, STORE})

    extremes: int = 100
    against: tuple[str, ...] = ()

    def fit(self, concept: Concept, data: FitData) -> Editor:
        """A direction for each timestep of the window, disentangled, in the shared unit."""
        own = self._directions(data, data.labels(concept))
        others = [self._directions(data, data.labels(name)) for name in self.against]
        return timed_editor({t: project_out(n, [other[t] for other in others]) for t, n in own.items()}, data)

    def _directions(self, data: FitData, scores: Tensor) -> dict[int, Tensor]:
        few = extremes(scores, self.extremes)
        weights = torch.zeros(len(scores), dtype=torch.float64)
        for side, sign in zip(few, (1, -1), strict=True):
            weights[side] = sign / len(side)
        return weighted_sums(data, weights)


def extremes(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The places of the `count` highest and the `count` lowest scores (n,); of bool ones, of True and of False.

    Fewer are taken where there are fewer; half of the images at most. Raises `SparsightError` where a side is empty.
    """
    order = scores.float().argsort(descending=True, stable=True)
    most = least = min(count, len(scores) // 2)
    if scores.dtype == torch.bool:
        most, least = min(count, int(scores.sum())), min(count, int((~scores).sum()))
    if not most or not least:
        raise SparsightError("a supervised direction needs images with the concept and images without it")
    return order[:most], order[-least:]


def project_out(direction: Tensor, others: Sequence[Tensor]) -> Tensor:
    """`direction` minus its part in the span of `others`, all of one shape, flattened for the purpose."""
    if not others:
        return direction
    basis = torch.stack([other.flatten() for other in others], 1).double()
    flat = direction.flatten().double()
    fitted = torch.linalg.lstsq(basis, flat[:, None]).solution
    return (flat - (basis @ fitted)[:, 0]).reshape(direction.shape).to(direction.dtype)


@dataclass(frozen=True)
class HaasPca(Method):
    """The leading `count` principal components of the tokens, timestep by timestep, of which the labels name one."""

    name = "haas_pca"
    title = "Haas et al., PCA"
    paper = PAPER
    needs = frozenset({LABELS, STORE})

    count: int = 25

    def fit(self, concept: Concept, data: FitData) -> Editor:
        """The named component at each timestep, its sign carried over from one timestep to the next by the labels."""
        differences = weighted_sums(data, halves(data.labels(concept)))
        parts = {t: principal(data.at(t, "tokens")["tokens"], self.count) for t in differences}
        return timed_editor(named(parts, differences), data)


def principal(tokens: Tensor, count: int) -> Tensor:
    """The leading principal components of maps (n, N, C), each scaled to the deviation of the data along it: (count, N, C).

    By the n x n Gram matrix, since a map has far more entries than there are images; at most n - 1 components exist.
    """
    flat = (tokens - tokens.mean(0)).flatten(1).double()
    sizes, images = torch.linalg.eigh(flat @ flat.T)
    kept = min(count, len(flat) - 1)
    sizes, images = sizes.flip(0)[:kept].clamp_min(0), images.flip(1)[:, :kept]
    unit = images.T @ flat / sizes.sqrt().clamp_min(1e-12)[:, None]
    deviation = (sizes / (len(flat) - 1)).sqrt()
    return (unit * deviation[:, None]).reshape(kept, *tokens.shape[1:]).to(tokens.dtype)


@dataclass(frozen=True)
class HaasJacobian(Method):
    """The leading right singular vectors of d eps/dh, of which the labels name one (section 3.2).

    The paper's directions belong to one image. Here they are shared by `images` training images, as the eigenvectors
    of the mean of J'J, found at one timestep `t` and used at all: with one image that is the paper's.
    """

    name = "haas_jacobian"
    title = "Haas et al., Jacobian"
    paper = PAPER
    needs = frozenset({LABELS, STORE, GRADIENTS})

    count: int = 3
    images: int = 8
    t: int = 600
    iterations: int = 50
    tolerance: float = 1e-3

    def refusal(self, data: FitData) -> str | None:
        """It is written for a prediction that depends on one row alone."""
        return "its Jacobian is that of a model without prompts" if data.model.takes_prompts else None

    def fit(self, concept: Concept, data: FitData) -> Editor:
        """The named direction, the same at every timestep, in the shared unit."""
        t = min(data.stamps(), key=lambda stamp: abs(stamp - self.t))
        differences = weighted_sums(data, halves(data.labels(concept)))
        x_t = data.at(t, "x_t")["x_t"][: self.images].to(data.model.device)
        at = noise_of_site(data.model, data.site, x_t, t)
        found, _ = subspace(
            at, self.count, shared=True, iterations=self.iterations, tolerance=self.tolerance, seed=data.seed
        )
        one = named({t: found[0].cpu()}, {t: differences[t]})[t]
        return timed_editor(dict.fromkeys(data.stamps(), one), data)


def named(parts: Mapping[int, Tensor], differences: Mapping[int, Tensor]) -> dict[int, Tensor]:
    """For each timestep the direction out of (count, N, C) with the greatest cosine to that of the labels (N, C), signed.

    One number is chosen for all timesteps, by the mean of the cosines' sizes.
    """
    cosines = {
        t: torch.cosine_similarity(part.flatten(1).double(), differences[t].flatten()[None].double())
        for t, part in parts.items()
    }
    fewest = min(map(len, cosines.values()))
    best = int(torch.stack([c[:fewest].abs() for c in cosines.values()]).mean(0).argmax())
    return {t: part[best] * (1 if float(cosines[t][best]) >= 0 else -1) for t, part in parts.items()}
