"""Difference of means, also called activation steering or DiffMean: the plainest supervised direction there is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsight.baselines.data import FitData
from sparsight.baselines.method import LABELS, STORE, Editor, Method
from sparsight.baselines.units import Timed, in_units
from sparsight.concepts.concept import Concept
from sparsight.errors import SparsightError, unknown
from sparsight.steering import Direction

FORMS = ("vector", "map", "timed")


@dataclass(frozen=True)
class MeanDifference(Method):
    """Mean activation of images with the concept minus that of images without it.

    `form`: one "vector" for all positions and timesteps, a "map" with a vector for each position, or "timed", a map
    for each timestep.
    """

    name = "mean_difference"
    title = "difference of means"
    paper = "Larsen et al. 2016 (arXiv 1512.09300); as activation steering, Turner et al. 2023 (arXiv 2308.10248)"
    needs = frozenset({LABELS, STORE})

    form: str = "vector"

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise unknown("form of a mean difference", self.form, FORMS)

    def fit(self, concept: Concept, data: FitData) -> Editor:
        """The difference over all training images and the window's timesteps, in the shared unit."""
        maps = weighted_sums(data, halves(data.labels(concept)))
        if self.form == "timed":
            return timed_editor(maps, data)
        whole = torch.stack(list(maps.values())).mean(0)
        vector = whole if self.form == "map" else whole.mean(0)
        return in_units(Direction(data.site, 1.0, data.window, vector=vector), data)


def halves(labels: Tensor) -> Tensor:
    """Weights (n,) fp64 under which a sum is the mean with `labels` minus the mean without.

    Labels that are scores are cut at their median. Raises `SparsightError` unless there are images of both kinds.
    """
    yes = labels if labels.dtype == torch.bool else labels > labels.float().median()
    if yes.all() or not yes.any():
        raise SparsightError("a mean difference needs images with the concept and images without it")
    return yes.double() / yes.sum() - (~yes).double() / (~yes).sum()


def weighted_sums(data: FitData, weights: Tensor) -> dict[int, Tensor]:
    """For each timestep of the window, the sum over images of `weights` (n,) times tokens: {t: (N, C)}, in one read."""
    of = dict(zip(data.numbers, weights.tolist(), strict=True))
    sums: dict[int, Tensor] = {}
    for rows in data.chunks("tokens"):
        own = torch.tensor([of[int(n)] for n in rows["image"]], dtype=torch.float64)
        for t in rows["t"].unique().tolist():
            now = rows["t"] == t
            part = torch.einsum("m,mnc->nc", own[now], rows["tokens"][now].double())
            sums[t] = sums[t] + part if t in sums else part
    return {t: total.float() for t, total in sums.items()}


def timed_editor(directions: Mapping[int, Tensor], data: FitData) -> Editor:
    """An editor that adds to the site's tokens the direction (N, C) of the timestep, in the shared unit."""
    timed = Timed(data.site, 1.0, data.window, rule=lambda _, t: directions[t], stamps=tuple(directions))
    return in_units(timed, data)
