"""BoundaryDiffusion (Zhu et al., NeurIPS 2023, arXiv 2302.08357): one push across two hyperplanes, in x_t and in h.

At one "mixing" timestep a linear SVM is fitted to the states x_t and one to the site's tokens, both flattened. An image
is edited once, there, along both unit normals, and then denoised as usual.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sparsight.baselines.data import FitData
from sparsight.baselines.method import LABELS, STORE, Editor, Method
from sparsight.baselines.steps import OneStepEditor, stamp_next_to, step_next_to
from sparsight.concepts.concept import Concept
from sparsight.diffusion.conditioning import Conditioning
from sparsight.diffusion.model import DiffusionModel
from sparsight.diffusion.sites import Intervention, Step
from sparsight.errors import SparsightError, unknown

FORMS = ("relative", "as_released")
SPACES = ("x_t", "site")


class Boundary(NamedTuple):
    """A hyperplane: its unit `normal` in the shape of what it divides, and the SVM's `accuracy` on held-out images."""

    normal: Tensor
    accuracy: float


@dataclass(frozen=True)
class BoundaryDiffusion(Method):
    """Both spaces are moved by the same distance d, as in the released code.

    `form` "relative" moves by d (the paper's equation); "as_released" moves the projection on the normal to d,
    x + (d - <x, n>) n, so that weak strengths are not weak edits. The released code leaves n_h without unit length in one
    of its two paths; here both are unit. It fits at t = 500 and denoises with eta 1: give the loop an eta for that.
    `spaces` leaves one of the two out, for ablations.
    """

    name = "boundary_diffusion"
    title = "BoundaryDiffusion"
    paper = "arXiv 2302.08357"
    needs = frozenset({LABELS, STORE})

    t: int = 500
    form: str = "relative"
    held_out: float = 0.25
    spaces: tuple[str, ...] = SPACES

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise unknown("form of BoundaryDiffusion", self.form, FORMS)
        for space in self.spaces or ("none",):
            if space not in SPACES:
                raise unknown("space of BoundaryDiffusion", space, SPACES)

    def refusal(self, data: FitData) -> str | None:
        """One of its boundaries is between states."""
        return "it needs the states x_t, which stores of prompts do not keep" if data.model.takes_prompts else None

    def fit(self, concept: Concept, data: FitData) -> Editor:
        """Two SVMs at the run's timestep next to `t`, on the store's states next to that."""
        t = step_next_to(data, self.t)
        rows = data.at(stamp_next_to(data, t), "tokens", "x_t")
        labels = data.labels(concept).bool()
        found = {
            space: boundary(rows[column], labels, held_out=self.held_out, seed=data.seed)
            for space, column in zip(SPACES, ("x_t", "tokens"), strict=True) if space in self.spaces
        }  # fmt: skip
        unit = float(rows["tokens"].flatten(1).norm(dim=1).mean())
        return BoundaryEditor(data.site, t, found.get("x_t"), found.get("site"), unit, self.form)


def boundary(points: Tensor, labels: Tensor, *, held_out: float = 0.25, seed: int = 0) -> Boundary:
    """The linear SVM (C = 1) between `points` (n, ...) with `labels` (n,) bool and those without.

    The normal points to the labelled side. The accuracy is that of an SVM on the other images; the boundary itself
    is fitted to all. The kernel form is solved: there are far more dimensions than images. Raises `SparsightError` for
    one class.
    """
    from sklearn.model_selection import train_test_split
    from sklearn.svm import SVC

    x, y = points.flatten(1).double().numpy(), labels.bool().numpy()
    if min(y.sum(), (~y).sum()) < 2:
        raise SparsightError("a boundary needs at least two images with the concept and two without it")
    count = max(2, round(held_out * len(y)))
    train, test = train_test_split(np.arange(len(y)), test_size=count, random_state=seed, stratify=y)
    accuracy = float((SVC(kernel="linear").fit(x[train], y[train]).predict(x[test]) == y[test]).mean())
    normal = torch.tensor(SVC(kernel="linear").fit(x, y).coef_[0].copy())
    return Boundary((normal / normal.norm()).reshape(points.shape[1:]).to(points.dtype), accuracy)


def across(x: Tensor, normal: Tensor, distance: float, form: str = "relative") -> Tensor:
    """Points (B, ...) moved by `distance` along the unit `normal` (...), or to that projection on it ("as_released")."""
    normal = normal.to(x.device, x.dtype)
    if form == "relative":
        return x + distance * normal
    own = (x * normal).flatten(1).sum(1).reshape(-1, *[1] * normal.ndim)
    return x + (distance - own) * normal


@dataclass(frozen=True)
class BoundaryEditor(OneStepEditor):
    """Moves x_t and the site's tokens once, at the run's step `t`; None leaves one of the two where it is.

    Strength 1 is a distance, in both spaces, of the mean norm of the flattened tokens at that timestep.
    """

    site: str
    t: int
    state: Boundary | None
    tokens: Boundary | None
    distance: float
    form: str = "relative"
    unit = "a distance of the mean norm of the whole map of tokens, in x_t and in the site"

    def interventions(self, strength: float) -> Sequence[Intervention]:
        """The push of the tokens."""
        if self.tokens is None:
            return ()
        return (_Push(self.site, self.t, self.tokens.normal, strength * self.distance, self.form),)

    def move(
        self, model: DiffusionModel, x_t: Tensor, t: int, strength: float, conditioning: Conditioning | None = None
    ) -> Tensor:
        """The push of the state."""
        if strength == 0 or t != self.t or self.state is None:
            return x_t
        return across(x_t, self.state.normal, strength * self.distance, self.form)


@dataclass(frozen=True)
class _Push:
    """`across` at one timestep."""

    site: str
    t: int
    normal: Tensor
    distance: float
    form: str

    def active(self, t: int) -> bool:
        return self.distance != 0 and t == self.t

    def __call__(self, tokens: Tensor, step: Step) -> Tensor:
        return tokens if self.distance == 0 else across(tokens, self.normal, self.distance, self.form)
