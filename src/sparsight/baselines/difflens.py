"""DiffLens (CVPR 2025, arXiv 2503.20483): SAE latents chosen by integrated gradients of a classifier of the bottleneck.

A linear classifier reads the site's flattened tokens, one for each timestep. Each latent is credited with its part of
the classifier's output on the SAE's reconstruction, by integrated gradients (Sundararajan et al. 2017) from the zero
code. Credits are summed over positions and timesteps, and the latents with the most of it are edited.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sparsight.baselines.data import FitData
from sparsight.baselines.method import LABELS, SAE, STORE, Editor, Method
from sparsight.baselines.units import in_units, untold
from sparsight.concepts.concept import Concept
from sparsight.errors import SparsightError, unknown
from sparsight.sae import SparseAutoencoder
from sparsight.steering import Direction, LatentSteering

FORMS = ("add", "scale")
OUTPUTS = ("probability", "logit")


@dataclass(frozen=True)
class DiffLens(Method):
    """The `top` latents by credit, at every position: `form` "add" raises their codes, "scale" multiplies them.

    "add" beta to the codes moves the tokens by beta times the sum of the atoms; "scale" by (beta - 1) times what the
    latents already say. `output` is what the credit explains; with "logit" the integral has a closed form.
    """

    name = "difflens"
    title = "DiffLens"
    paper = "arXiv 2503.20483"
    needs = frozenset({LABELS, STORE, SAE})

    top: int = 30
    form: str = "add"
    output: str = "probability"
    points: int = 20
    images: int = 64

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise unknown("form of DiffLens", self.form, FORMS)
        if self.output not in OUTPUTS:
            raise unknown("output to explain", self.output, OUTPUTS)

    def refusal(self, data: FitData) -> str | None:
        """Scaling reads codes while it edits; adding does not."""
        return untold(data) if self.form == "scale" else None

    def fit(self, concept: Concept, data: FitData) -> Editor:
        """The latents with the most credit on images that show the concept, in the shared unit."""
        latents = tuple(self.credits(concept, data).topk(min(self.top, data.sae.config.d_sae)).indices.tolist())
        atoms = data.sae.W_dec.detach()[list(latents)] / data.sae.scale
        if self.form == "add":
            return in_units(Direction(data.site, 1.0, data.window, vector=atoms.sum(0)), data)
        steering = LatentSteering(data.site, 1.0, data.window, sae=data.sae, latents=latents, directions=atoms)
        return in_units(steering, data)

    def credits(self, concept: Concept, data: FitData) -> Tensor:
        """Mean credit of each latent (d_sae,) over at most `images` images with the concept, summed over the rest."""
        labels = data.labels(concept).bool()
        shown = torch.nonzero(labels)[: self.images, 0]
        total = torch.zeros(data.sae.config.d_sae)
        for t in data.stamps():
            tokens = data.at(t, "tokens")["tokens"]
            weights, bias = linear_classifier(tokens, labels)
            for one in tokens[shown].split(8):
                total += integrated_gradients(
                    data.sae, one, linear_head(weights, bias, self.output), t=t, points=self.points
                ).sum((0, 1))
        return total / len(shown)


def linear_classifier(tokens: Tensor, labels: Tensor) -> tuple[Tensor, float]:
    """Logistic regression (L2, C = 1) of `labels` (n,) bool on standardised maps (n, N, C): weights (N, C), and a bias.

    Both are for raw tokens. The scale is one number for all entries, so that directions stay what they are. Raises
    `SparsightError` for one class.
    """
    from sklearn.linear_model import LogisticRegression

    if labels.all() or not labels.any():
        raise SparsightError("DiffLens needs images with the concept and images without it")
    flat = tokens.flatten(1).double()
    mean, scale = flat.mean(0), float((flat - flat.mean(0)).norm(dim=1).mean())
    fitted = LogisticRegression(max_iter=1000).fit(((flat - mean) / scale).numpy(), labels.numpy().astype(np.int64))
    weights = torch.tensor(fitted.coef_[0].copy()) / scale
    bias = float(fitted.intercept_[0]) - float(weights @ mean)
    return weights.reshape(tokens.shape[1:]).to(tokens.dtype), bias


def linear_head(weights: Tensor, bias: float, output: str) -> Callable[[Tensor], Tensor]:
    """The classifier as a function of tokens (B, N, C) to (B,): the probability of the concept, or its logit."""

    def head(tokens: Tensor) -> Tensor:
        logit = (tokens * weights).sum((1, 2)) + bias
        return logit.sigmoid() if output == "probability" else logit

    return head


def integrated_gradients(
    sae: SparseAutoencoder, tokens: Tensor, head: Callable[[Tensor], Tensor], *, t: int, points: int = 20
) -> Tensor:
    """Credit of each latent at each position for `head` (B,) of the decoded tokens (B, N, C): (B, N, d_sae).

    z * mean over the middles of `points` equal parts of [0, 1] of d head(decode(a z)) / d(a z). Over all positions and
    latents the credit adds up to head(decode(z)) - head(decode(0)).
    """
    code = sae.encode(tokens, t).detach()
    gradient = torch.zeros_like(code)
    with torch.enable_grad():
        for place in range(points):
            scaled = ((place + 0.5) / points * code).requires_grad_()
            (slope,) = torch.autograd.grad(head(sae.decode(scaled)).sum(), scaled)
            gradient += slope / points
    return code * gradient
