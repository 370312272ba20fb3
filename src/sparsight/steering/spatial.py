"""Spatial interventions: put a concept into a region and take it away elsewhere (Tinaz et al., 2504.15473, Eq. 1, 2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from sparsight.diffusion.sites import Step
from sparsight.errors import SparsightError
from sparsight.sae import SAE
from sparsight.steering.concept_checks import require_latents, require_stage
from sparsight.steering.concept_edit import ConceptEdit
from sparsight.steering.interventions import Window


@dataclass(frozen=True)
class SpatialEdit(ConceptEdit):
    """Inside the region S: + beta n_ij sum_c f_c. Outside: - erase * sum_c Z_ij,c f_c, the concept's own contribution.

    The paper sets the codes of the concept to 0 outside (its Eq. 1). The printed Eq. 2 subtracts f_c there, which is no
    equivalent of that; subtracting Z_ij,c f_c is, and is our reading (INFERRED). `erase` 0 leaves the outside alone.
    With beta 0 nothing is done at all; a region without positions erases the concept and amplifies it nowhere.
    """

    region: Tensor | None = None
    erase: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.region is None or self.region.dtype != torch.bool or self.region.ndim not in (2, 3):
            raise SparsightError("a region must be a bool mask of the site's positions, (h, w) or (images, h, w)")

    def _change(self, x: Tensor, t: Tensor | int | None) -> Tensor:
        assert self.directions is not None
        inside, reading = self._inside(x), self.read(x, t)
        return torch.where(inside, self.push(reading.norms), -self.erase * (reading.codes @ self.directions))

    def _inside(self, x: Tensor) -> Tensor:
        assert self.region is not None
        inside = self.region.to(x.device).flatten(-2).unsqueeze(-1)
        if inside.shape[-2] != x.shape[1]:
            raise SparsightError(f"the region has {inside.shape[-2]} positions, but {self.site} has {x.shape[1]}")
        if inside.ndim == 3 and len(inside) != len(x):
            raise SparsightError(f"there are {len(inside)} regions for {len(x)} images: give one, or one for each")
        return inside

    def check(self, step: Step) -> None:
        """Raise `SparsightError` for a region of another size than the site's grid."""
        assert self.region is not None
        height, width = self.region.shape[-2:]
        if (height, width) != step.grid:
            raise SparsightError(
                f"the region is {height}x{width} positions, but {self.site} has {step.grid[0]}x{step.grid[1]}: "
                "to_grid brings a mask to that size"
            )


def spatial_edit(
    sae: SAE, latents: Sequence[int], region: Tensor, *, site: str, beta: float, normaliser: str = "norm",
    scope: str = "cond", window: Window | None = None, erase: float = 1.0, strict: bool = True,
) -> SpatialEdit:  # fmt: skip
    """Amplify `latents` of `sae` inside `region`, (h, w) bool over the site's grid or one for each image, erase them outside.

    `beta` is the strength, in units of the SAE's codes times what `normaliser` makes of them; `window` defaults to all
    timesteps. Raises `SparsightError` for latents, regions, normalisers and scopes that do not exist, for an SAE of another
    site, and, unless not `strict`, for one of another stage or half.
    """
    window = window or Window(0, 999)
    if strict:
        require_stage(sae, window, scope)
    return SpatialEdit(
        site, float(beta), window, sae=sae, latents=require_latents(sae, latents), normaliser=normaliser, scope=scope,
        region=region, erase=float(erase),
    )  # fmt: skip


def to_grid(mask: Tensor, grid: tuple[int, int], cover: float = 0.5) -> Tensor:
    """A mask (..., H, W) of an image's pixels as one of the grid (h, w): positions of which `cover` or more is in the mask."""
    if mask.ndim not in (2, 3) or min(mask.shape[-2:]) < 1:
        raise SparsightError(f"a mask must be (H, W) or (images, H, W), not {tuple(mask.shape)}")
    flat = mask.float().reshape(-1, 1, *mask.shape[-2:])
    return F.adaptive_avg_pool2d(flat, grid).reshape(*mask.shape[:-2], *grid) >= cover
