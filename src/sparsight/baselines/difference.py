"""Difference of means, also called activation steering or DiffMean: the plainest supervised direction there is."""

from __future__ import annotations

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
    paper = "Larsen et al. 2016 (arXiv 1512.09300, section 4.2); as activation steering, Turner et al. 2023"
    needs = frozenset({LABELS, STORE})

    form: str = "vector"

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise unknown("form of a mean difference", self.form, FORMS)

    def fit(self, concept: Concept, data: FitData) -> Editor:
        """The difference over all training images and the window's timesteps, in the shared unit."""
        maps = mean_differences(data, data.labels(concept).bool())
        if self.form == "timed":
            timed = Timed(data.site, 1.0, data.window, rule=lambda _, t: maps[t], stamps=tuple(maps))
            return in_units(timed, data)
        whole = torch.stack(list(maps.values())).mean(0)
        return in_units(
            Direction(data.site, 1.0, data.window, vector=whole if self.form == "map" else whole.mean(0)), data
        )


def mean_differences(data: FitData, labels: Tensor) -> dict[int, Tensor]:
    """For each timestep of the window, the mean tokens (N, C) with `labels` (n,) minus without, in one read.

    Raises `SparsightError` unless there are images of both kinds.
    """
    labels = labels.bool()
    if labels.all() or not labels.any():
        raise SparsightError("a mean difference needs images with the concept and images without it")
    weight = labels.double() / labels.sum() - (~labels).double() / (~labels).sum()
    of = dict(zip(data.numbers, weight.tolist(), strict=True))
    sums: dict[int, Tensor] = {}
    for rows in data.chunks("tokens"):
        shares = torch.tensor([of[int(n)] for n in rows["image"]], dtype=torch.float64)
        for t in rows["t"].unique().tolist():
            own = rows["t"] == t
            part = torch.einsum("m,mnc->nc", shares[own], rows["tokens"][own].double())
            sums[t] = sums.get(t, torch.zeros_like(part)) + part
    return {t: total.float() for t, total in sums.items()}
