"""Tinaz et al. (NeurIPS 2025, arXiv 2504.15473): global and spatial edits along the atoms of concept latents.

All of it is `steering`'s own: `global_edit` (the paper's eq. 3) and `spatial_edit` (its eq. 1 and 2).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from sparsight.baselines.data import FitData
from sparsight.baselines.features import features, require_way
from sparsight.baselines.method import LABELS, SAE, STORE, Editor, Method, Plan
from sparsight.baselines.regions import AREAS, Area, area_of, needed, placeless
from sparsight.baselines.units import SteeringEditor, in_units, untold
from sparsight.concepts.concept import Concept
from sparsight.diffusion.model import DiffusionModel
from sparsight.diffusion.sites import Intervention
from sparsight.errors import SparsightError, unknown
from sparsight.steering import NORMALISERS, GlobalEdit, SpatialEdit, global_edit, spatial_edit


@dataclass(frozen=True)
class TinazGlobal(Method):
    """A concept everywhere, in the shared unit of strength: + beta n_ij sum_c f_c at each position.

    `latents` are those whose dictionary entries name the concept, as in the paper; where none are given, the `k` with
    the largest share difference on labelled images, or those that are found `by` dictionary "entries" or by "evidence".
    The paper's betas (8 to 10) are for its own SAEs of SD 1.4.
    """

    name = "tinaz_global"
    title = "Tinaz et al., global"
    paper = "arXiv 2504.15473"
    needs = frozenset({LABELS, STORE, SAE})

    latents: tuple[int, ...] = ()
    k: int = 1
    by: str = "labels"
    normaliser: str = "norm"
    scope: str = "cond"

    def __post_init__(self) -> None:
        if self.normaliser not in NORMALISERS:
            raise unknown("normaliser", self.normaliser, NORMALISERS)
        require_way(self.by)
        object.__setattr__(self, "needs", needed(type(self).needs, self.latents, "everywhere", self.by))

    def refusal(self, data: FitData) -> str | None:
        """The unit of strength is measured without telling the SAE the timestep."""
        return untold(data)

    def unfit(self, concept: Concept) -> str | None:
        """What is pushed everywhere goes to no place."""
        return placeless("everywhere", concept)

    def everywhere(self, concept: Concept, data: FitData) -> SteeringEditor:
        """The global edit in the shared unit."""
        chosen = features(data, concept, self.latents, self.k, self.by).latents
        edit = global_edit(
            data.sae, chosen, site=data.site, beta=1.0, normaliser=self.normaliser, scope=self.scope, window=data.window
        )
        return in_units(edit, data)

    def fit(self, concept: Concept, data: FitData) -> Editor:
        """The latents, and the unit of beta."""
        return self.everywhere(concept, data)


@dataclass(frozen=True)
class TinazSpatial(TinazGlobal):
    """The concept inside an area, and its own contribution taken away outside.

    Strength 1 is that of the global edit, inside. Outside, `erase` times what the latents say there is taken away at any
    strength but 0, also at negative ones, which push the concept out of the area as well. `area` is as in
    `SurkovFeatures`; the paper's are quadrants.
    """

    name = "tinaz_spatial"
    title = "Tinaz et al., spatial"

    area: str = "top-left"
    word: str = ""
    erase: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.area not in AREAS:
            raise unknown("area", self.area, AREAS)
        object.__setattr__(self, "needs", needed(type(self).needs, self.latents, self.area, self.by))

    def unfit(self, concept: Concept) -> str | None:
        """As for all edits on an area."""
        return placeless(self.area, concept)

    def fit(self, concept: Concept, data: FitData) -> Editor:
        """The latents, the unit of beta and the area."""
        whole = self.everywhere(concept, data).steering
        assert isinstance(whole, GlobalEdit)
        grid = data.model.site(data.site).grid
        edit = spatial_edit(
            data.sae, whole.latents, torch.ones(grid, dtype=torch.bool), site=data.site, beta=1.0,
            normaliser=self.normaliser, scope=self.scope, window=data.window, erase=self.erase,
        )  # fmt: skip
        return SpatialEditor(edit, whole.unit, area_of(self.area, self.word, concept, data), grid)


@dataclass
class SpatialEditor(Editor):
    """`edit` at beta = strength * `scale`; the area of a run is found when its context opens."""

    edit: SpatialEdit
    scale: float
    area: Area
    grid: tuple[int, int]
    region: Tensor | None = field(default=None, init=False, repr=False)

    @contextmanager
    def context(self, model: DiffusionModel, strength: float, plan: Plan) -> Iterator[None]:
        """Finds the area in the unedited images."""
        if strength != 0:
            self.region = self.area.find(model, plan, self.grid)
        try:
            yield
        finally:
            self.region = None

    def interventions(self, strength: float) -> Sequence[Intervention]:
        """The edit on the area of the open context. Raises `SparsightError` outside of one, except at strength 0."""
        if strength == 0:
            return (self.edit.at(0.0),)
        if self.region is None:
            raise SparsightError("a spatial edit finds its area inside its context only: use edit_images")
        return (replace(self.edit, region=self.region).at(strength * self.scale),)
