"""Where something is in a picture, and whether an edit put it where it was asked to go.

Source: Tinaz et al. 2025 (arXiv 2504.15473), appendix E.2: a localiser's scores (CLIPSeg's there) give a centre of mass,
and an edit succeeds if that lies in the quadrant that was asked for; by chance one in four does.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sparsight.errors import SparsightError, unknown
from sparsight.metrics.clip import cosine

QUADRANTS = ("top-left", "top-right", "bottom-left", "bottom-right")


def centre_of_mass(weights: Tensor) -> Tensor:
    """The centre (n, 2) of maps (n, H, W) >= 0 as (down, right) in [0, 1]; NaN where a map is empty.

    Pixel i of H has its middle at (i + 1/2) / H. Raises `SparsightError` for other shapes and for negative weights.
    """
    if weights.ndim != 3 or bool((weights < 0).any()):
        raise SparsightError(f"weights must be (n, H, W) and not negative, not {tuple(weights.shape)}")
    mass = weights.double()
    total = mass.sum((1, 2))
    sides = [_middles(size).to(mass.device) for size in weights.shape[1:]]
    found = torch.stack([(mass.sum(2) * sides[0]).sum(1) / total, (mass.sum(1) * sides[1]).sum(1) / total], 1)
    return torch.where(total.unsqueeze(1) > 0, found, torch.nan)


def quadrant(weights: Tensor) -> Tensor:
    """The number in `QUADRANTS` of each map's centre of mass, (n,) int64; -1 where a map is empty."""
    centre = centre_of_mass(weights)
    lower, right = (centre >= 0.5).long().unbind(1)
    return torch.where(centre.isnan().any(1), -1, 2 * lower + right)


def quadrant_success(weights: Tensor, wanted: str) -> Tensor:
    """1 where the centre of a map (n, H, W) lies in the quadrant `wanted`, else 0 (also where nothing is found): (n,)."""
    return (quadrant(weights) == _number(wanted)).float()


def quadrant_region(name: str, grid: tuple[int, int]) -> Tensor:
    """The positions (H, W) bool of a grid whose middles lie in a quadrant."""
    lower, right = divmod(_number(name), 2)
    down, along = (_middles(size) >= 0.5 for size in grid)
    return (down == bool(lower)).unsqueeze(1) & (along == bool(right)).unsqueeze(0)


def intersection_over_union(a: Tensor, b: Tensor) -> Tensor:
    """The IoU (n,) of masks (n, H, W) bool; NaN where both are empty."""
    if a.shape != b.shape:
        raise SparsightError(f"masks of shapes {tuple(a.shape)} and {tuple(b.shape)} cannot be compared")
    both, either = (a & b).flatten(1).sum(1), (a | b).flatten(1).sum(1)
    return torch.where(either > 0, both / either, torch.nan)


def similarity_rose(before: Tensor, after: Tensor, text: Tensor) -> Tensor:
    """1 where images' embeddings (n, d) came nearer to a text's (d,), else 0: (n,). Success of a global edit (E.2)."""
    return (cosine(after, text) > cosine(before, text)).float()


def _middles(size: int) -> Tensor:
    return (torch.arange(size, dtype=torch.float64) + 0.5) / size


def _number(name: str) -> int:
    if name not in QUADRANTS:
        raise unknown("quadrant", name, QUADRANTS)
    return QUADRANTS.index(name)
