"""Surkov et al. (NeurIPS 2025, arXiv 2410.22366): single SAE features of a cross-attention block's update, painted.

The paper's sites are updates of transformer blocks, such as `mid_block.attentions.0:update`, and nothing is ever decoded:
atoms are added to the update, so that what the SAE does not explain stays. With codes Z_c and atoms f_c of the latents c:

`add`      update + s * sum_c mu_c f_c, everywhere or on an area
`replace`  s * sum_c mu_c f_c in place of the update, on the area (the paper's feature icons, for s above 0)
`ablate`   update + s * sum_c Z_c f_c: s = -1 takes out what the latents say, s = 1 doubles it
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sparsight.baselines.data import FitData
from sparsight.baselines.features import Features, features, require_way
from sparsight.baselines.method import LABELS, SAE, STORE, Editor, Method, Plan
from sparsight.baselines.regions import AREAS, Area, area_of, needed, placeless
from sparsight.concepts.concept import Concept
from sparsight.diffusion.model import DiffusionModel
from sparsight.diffusion.sites import Intervention, Step, split_site
from sparsight.errors import SparsightError, unknown
from sparsight.sae import SparseAutoencoder
from sparsight.steering import Window
from sparsight.steering.concept_checks import require_site
from sparsight.steering.concept_edit import atoms

FORMS = ("add", "replace", "ablate")
SCOPES = ("cond", "both", "opposed")


@dataclass(frozen=True)
class SurkovFeatures(Method):
    """Strength s = 1 is each feature's mean activation mu_c over the positions where it is active (the paper's slider unit).

    `latents` are the features; where none are given, the `k` with the largest share difference on labelled images, or
    those that are found `by` dictionary "entries" or "evidence".
    `scope` is the half of guidance: "cond", "both" alike, or "opposed", which is the paper's default for SDXL base, plus
    on the conditional half and minus on the other (add only). `area` is where: "everywhere", a quadrant, "concept" (its own
    place), "word" (where DAAM sees `word`, by default the concept's source text) or "masks" (where the source of masks
    sees it).
    """

    name = "surkov_features"
    title = "Surkov et al., SAE features"
    paper = "arXiv 2410.22366"
    needs = frozenset({LABELS, STORE, SAE})

    form: str = "add"
    latents: tuple[int, ...] = ()
    k: int = 1
    by: str = "labels"
    scope: str = "cond"
    area: str = "everywhere"
    word: str = ""

    def __post_init__(self) -> None:
        for what, own, known in (("form", self.form, FORMS), ("scope", self.scope, SCOPES), ("area", self.area, AREAS)):
            if own not in known:
                raise unknown(f"{what} of a feature edit", own, known)
        require_way(self.by)
        object.__setattr__(self, "needs", needed(type(self).needs, self.latents, self.area, self.by))

    def refusal(self, data: FitData) -> str | None:
        """Replacing is of updates, and two halves of guidance are those of a model with prompts."""
        if self.form == "replace" and split_site(data.site)[1] != "update":
            return f"replacing is of a site's update, as in {data.site}:update"
        if self.scope == "opposed" and self.form != "add":
            return "the scope 'opposed' is a way to add"
        return "it needs a text-to-image model" if self.scope == "opposed" and not data.model.takes_prompts else None

    def unfit(self, concept: Concept) -> str | None:
        """What is painted everywhere goes to no place."""
        return placeless(self.area, concept)

    def fit(self, concept: Concept, data: FitData) -> Editor:
        """The features and their mean activations."""
        require_site(data.sae, data.site)
        found = features(data, concept, self.latents, self.k, self.by)
        area = area_of(self.area, self.word, concept, data)
        return SurkovEditor(data.site, data.window, data.sae, found, self.form, self.scope, area)


@dataclass
class SurkovEditor(Editor):
    """Paints features; the area of a run is found when its context opens."""

    site: str
    window: Window
    sae: SparseAutoencoder
    features: Features
    form: str
    scope: str
    area: Area
    region: Tensor | None = field(default=None, init=False, repr=False)
    unit = "the features' mean activation where they are active"

    def __post_init__(self) -> None:
        if self.form == "ablate":
            self.unit, self.own = "the features' own activation", -1.0

    @contextmanager
    def context(self, model: DiffusionModel, strength: float, plan: Plan) -> Iterator[None]:
        """Finds the area in the unedited images."""
        if strength != 0 and self.area.name != "everywhere":
            self.region = self.area.find(model, plan, model.site(self.site).grid)
        try:
            yield
        finally:
            self.region = None

    def interventions(self, strength: float) -> Sequence[Intervention]:
        """The painting at this strength, on the area of the open context. Raises `SparsightError` where none is open."""
        if strength != 0 and self.region is None and self.area.name != "everywhere":
            raise SparsightError("features are painted on an area inside the editor's context only: use edit_images")
        means, directions = self.features.means, atoms(self.sae, self.features.latents)
        return (Paint(self, strength, (means[:, None].to(directions) * directions).sum(0), directions, self.region),)


@dataclass(frozen=True)
class Paint:
    """One edit: `stroke` (C,) is sum_c mu_c f_c, `directions` (k, C) the atoms, `region` None or (h, w) or (B, h, w) bool."""

    editor: SurkovEditor
    strength: float
    stroke: Tensor
    directions: Tensor
    region: Tensor | None

    @property
    def site(self) -> str:
        """The site of the SAE."""
        return self.editor.site

    def active(self, t: int) -> bool:
        """Inside the window, at any strength but 0."""
        return self.strength != 0 and t in self.editor.window

    def __call__(self, tokens: Tensor, step: Step) -> Tensor:
        """Tokens (B, N, C), in fp32 where anything is changed."""
        if self.strength == 0:
            return tokens
        changed = tokens.float().clone()
        for half, sign in self._halves(step):
            rows = step.rows(half)
            x = changed[rows]
            changed[rows] = torch.where(self._inside(x), self._painted(x, sign, step), x)
        return changed

    def _halves(self, step: Step) -> list[tuple[str, float]]:
        if self.editor.scope == "cond" or "uncond" not in step.halves:
            return [("cond", 1.0)]
        return [("cond", 1.0), ("uncond", -1.0 if self.editor.scope == "opposed" else 1.0)]

    def _painted(self, x: Tensor, sign: float, step: Step) -> Tensor:
        amount = sign * self.strength
        if self.editor.form == "ablate":
            codes = self.editor.sae.encode_latents(x, list(self.editor.features.latents), step.t)
            return x + amount * codes @ self.directions.to(x)
        stroke = amount * self.stroke.to(x)
        return x + stroke if self.editor.form == "add" else stroke.expand_as(x)

    def _inside(self, x: Tensor) -> Tensor:
        if self.region is None:
            return torch.ones(1, 1, 1, dtype=torch.bool, device=x.device)
        inside = self.region.to(x.device).flatten(-2).unsqueeze(-1)
        return inside if inside.ndim == 3 else inside[None]
