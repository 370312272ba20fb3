"""SAeUron (Cywinski and Deja, ICML 2025, arXiv 2501.18052): latents chosen by share difference, scaled where they fire.

For each timestep, with mean codes mu_c of images with the concept and mu_n of the others, a latent's score is
mu_c / sum(mu_c) - mu_n / sum(mu_n); those above a percentile are kept. At the positions where such a latent exceeds its
mean over all images its code f becomes gamma mu_c f, with a negative gamma.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from sparsight.baselines.data import FitData
from sparsight.baselines.method import LABELS, SAE, STORE, Editor, Method
from sparsight.concepts.concept import Concept
from sparsight.diffusion.sites import Intervention, Step
from sparsight.errors import SparsightError, unknown
from sparsight.sae import SparseAutoencoder
from sparsight.steering import Window

ERRORS = ("preserve", "drop", "as_released")


class Chosen(NamedTuple):
    """Of one timestep: the latents (k,), their mean code with the concept (k,), and that of all images (k,), the gate."""

    latents: Tensor
    means: Tensor
    gate: Tensor


@dataclass(frozen=True)
class Saeuron(Method):
    """The paper takes a concept away: that is strength -1. Positive strengths go the same way backwards.

    f becomes f (1 - strength (gamma mu_c - 1)) behind the gate. `percentile` is 99.999 for the paper's 20 480 latents and
    styles; the highest score is always kept. `error` says what becomes of what the SAE does not explain: "preserve" adds
    the change of the reconstruction to the tokens; "drop" replaces them by the edited reconstruction; "as_released" adds
    the error with the wrong sign, as the released code does, which changes tokens in which no latent fires.
    """

    name = "saeuron"
    title = "SAeUron"
    paper = "arXiv 2501.18052"
    needs = frozenset({LABELS, STORE, SAE})

    percentile: float = 99.0
    gamma: float = -1.0
    error: str = "preserve"

    def __post_init__(self) -> None:
        if self.error not in ERRORS:
            raise unknown("treatment of the SAE's error", self.error, ERRORS)
        if not 0 <= self.percentile <= 100:
            raise SparsightError(f"percentile is {self.percentile}, but must lie between 0 and 100")

    def fit(self, concept: Concept, data: FitData) -> Editor:
        """The latents of each timestep of the window."""
        labels = data.labels(concept).bool()
        if labels.all() or not labels.any():
            raise SparsightError("SAeUron needs images with the concept and images without it")
        chosen = {}
        for t in data.stamps():
            codes = mean_codes(data.sae, data.at(t, "tokens")["tokens"], t)
            chosen[t] = choose(codes, labels, self.percentile)
        return SaeuronEditor(data.site, data.window, data.sae, chosen, self.gamma, self.error)


def mean_codes(sae: SparseAutoencoder, tokens: Tensor, t: int) -> Tensor:
    """The mean over positions of the codes of maps (n, N, C): (n, d_sae)."""
    return torch.cat([sae.encode(part, t).mean(1) for part in tokens.split(16)])


def share_difference(with_concept: Tensor, without: Tensor) -> Tensor:
    """The score of each latent from its mean codes (d_sae,) with and without the concept, each as a share of its sum."""
    return with_concept / with_concept.sum().clamp_min(1e-12) - without / without.sum().clamp_min(1e-12)


def choose(codes: Tensor, labels: Tensor, percentile: float) -> Chosen:
    """The latents whose share difference exceeds the percentile of all latents', from codes (n, d_sae) of images."""
    means = codes[labels].mean(0)
    scores = share_difference(means, codes[~labels].mean(0))
    kept = scores > torch.quantile(scores.double(), percentile / 100)
    kept[scores.argmax()] = True
    latents = torch.nonzero(kept)[:, 0]
    return Chosen(latents, means[latents], codes.mean(0)[latents])


@dataclass(frozen=True)
class SaeuronEditor(Editor):
    """Scales chosen codes where they fire; the paper's own setting is strength -1."""

    site: str
    window: Window
    sae: SparseAutoencoder
    chosen: dict[int, Chosen]
    gamma: float
    error: str
    unit = "the paper's change of the codes, its sign turned"
    own = -1.0

    def interventions(self, strength: float) -> Sequence[Intervention]:
        """The scaling at this strength."""
        return (_Scale(self, strength),)


@dataclass(frozen=True)
class _Scale:
    editor: SaeuronEditor
    strength: float

    @property
    def site(self) -> str:
        return self.editor.site

    def active(self, t: int) -> bool:
        return self.strength != 0 and t in self.editor.window

    def __call__(self, tokens: Tensor, step: Step) -> Tensor:
        if self.strength == 0:
            return tokens
        assert isinstance(step.t, int)
        t, editor = step.t, self.editor
        chosen = editor.chosen[min(editor.chosen, key=lambda stamp: abs(stamp - t))]
        sae, x = editor.sae, tokens.float()
        own = sae.encode_latents(x, chosen.latents, t)
        factor = -self.strength * (editor.gamma * chosen.means - 1)
        change = torch.where(own > chosen.gate, own * factor, 0.0) @ (sae.W_dec[chosen.latents] / sae.scale)
        if editor.error == "preserve":
            return x + change
        rebuilt = sae(x, t)
        return rebuilt + change if editor.error == "drop" else 2 * rebuilt - x + change
