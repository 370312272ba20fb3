"""Activation maps out of sparse codes: which (image, latent) pairs are active, where, and how they overlap masks.

A code holds the tokens of B images, all positions of one after the other, row-major over the grid. Everything here
works on its entries: no tensor of (images, latents, height, width) is ever made.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from sparsight.concepts.annotation import Annotation
from sparsight.errors import SparsightError, unknown
from sparsight.sae.sparsity import SparseCode

NORMALISERS = ("minmax", "max", "none")


class Maps(NamedTuple):
    """The active (image, latent) pairs of a batch and their entries, sorted by pair.

    image (P,), latent (P,) int64; entries in CSR form: pair i is active at `tokens[offsets[i]:offsets[i + 1]]` (nnz,)
    with `values` > 0. A token is image * positions + position; `pair` (nnz,) is each entry's pair.
    """

    image: Tensor
    latent: Tensor
    tokens: Tensor
    values: Tensor
    offsets: Tensor
    pair: Tensor

    @property
    def high(self) -> Tensor:
        """The largest activation of each pair, (P,)."""
        return self.values.new_zeros(len(self.image)).scatter_reduce(0, self.pair, self.values, "amax")

    def low(self, positions: int) -> Tensor:
        """The smallest activation over a pair's positions, (P,): 0 unless it is active at every one."""
        least = self.high.scatter_reduce(0, self.pair, self.values, "amin")
        return torch.where(self.offsets.diff() == positions, least, 0.0)

    def where(self, mask: Tensor) -> Maps:
        """The entries for which `mask` (nnz,) is true; all pairs stay."""
        offsets = F.pad(mask.cumsum(0), (1, 0))[self.offsets]
        return Maps(self.image, self.latent, self.tokens[mask], self.values[mask], offsets, self.pair[mask])

    def sum_over(self, table: Tensor) -> Tensor:
        """The sum of the rows of `table` (tokens, c) over each pair's entries, whatever their values: (P, c)."""
        return F.embedding_bag(self.tokens, table, self.offsets, mode="sum", include_last_offset=True)


def maps_of(code: SparseCode, images: int, grid: tuple[int, int]) -> Maps:
    """The maps of a batch's code; a number of tokens that is not `images` whole grids is a `SparsightError`."""
    positions, tokens = grid[0] * grid[1], len(code.offsets) - 1
    if tokens != images * positions:
        raise SparsightError(
            f"the codes hold {tokens} tokens, but {images} images on a grid of {grid[0]}x{grid[1]} have {images * positions}"
        )
    token = code.tokens
    latents = int(code.indices.max()) + 1 if len(code.indices) else 1
    key = (token // positions) * latents + code.indices
    order = key.argsort(stable=True)
    pairs, counts = key[order].unique_consecutive(return_counts=True)
    pair = torch.repeat_interleave(torch.arange(len(pairs), device=key.device), counts)
    offsets = F.pad(counts.cumsum(0), (1, 0))
    return Maps(pairs // latents, pairs % latents, token[order], code.values[order], offsets, pair)


def binary(
    maps: Maps, positions: int, threshold: float = 0.1, normaliser: str = "minmax", scale: Tensor | None = None
) -> Maps:
    """The entries above `threshold` once a map is brought to [0, 1] (Tinaz et al. 2025, section 4.1).

    The paper does not say how (INFERRED: min-max over the positions of one image). "minmax" and "max" differ only
    for latents that are active everywhere, whose lowest value is not 0: a map that is constant has no entry left with
    "minmax", all with "max". `scale` (latents,) divides by a latent's own number instead, such as its largest
    activation over all images; "none" compares the activations as they are.
    """
    if normaliser not in NORMALISERS:
        raise unknown("map normaliser", normaliser, NORMALISERS)
    if threshold < 0:
        raise SparsightError(f"the threshold of a map must be 0 or more, not {threshold}")
    low = maps.low(positions) if normaliser == "minmax" and scale is None else torch.zeros_like(maps.high)
    width = torch.ones_like(low) if normaliser == "none" else maps.high - low
    if scale is not None:
        width = scale.to(low)[maps.latent]
    level = (maps.values - low[maps.pair]) / width[maps.pair]
    return maps.where(level.nan_to_num(0.0) > threshold)  # constant maps are 0 / 0: nothing stands out of them


def cells(masks: Tensor, grid: tuple[int, int]) -> Tensor:
    """The pixels of each mask (n, H, W) bool within each cell of the grid: (n, h * w) fp32, whole numbers.

    Pixel y belongs to row floor(y h / H), as nearest-neighbour upsampling has it, so that overlaps of cells are
    overlaps of upsampled maps. Masks smaller than the grid are a `SparsightError`.
    """
    height, width = masks.shape[-2:]
    if height < grid[0] or width < grid[1]:
        raise SparsightError(f"masks of {height}x{width} pixels are smaller than the grid of {grid[0]}x{grid[1]}")
    rows = torch.arange(height) * grid[0] // height
    columns = torch.arange(width) * grid[1] // width
    summed = torch.zeros(len(masks), grid[0], width).index_add_(1, rows, masks.float())
    return torch.zeros(len(masks), *grid).index_add_(2, columns, summed).flatten(1)


def areas(size: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """How many pixels of an image of `size` each cell of the grid covers, (h * w,) fp32."""
    return cells(torch.ones(1, *size, dtype=torch.bool), grid)[0]


def coverage(mask: Tensor, grid: tuple[int, int]) -> Tensor:
    """The share of each cell of the grid that a mask (H, W) bool covers, (h * w,) fp32."""
    return cells(mask[None], grid)[0] / areas((mask.shape[0], mask.shape[1]), grid)


def require_latents(code: SparseCode, latents: int) -> None:
    """Raise `SparsightError` for codes of an SAE with more latents."""
    if len(code.indices) and int(code.indices.max()) >= latents:
        raise SparsightError(f"the codes name latent {int(code.indices.max())}, but the SAE has {latents}")


class Overlap(NamedTuple):
    """IoU of maps and masks of a batch: rows are Maps' pairs, columns the places of objects within their image.

    `iou` (P, most objects) fp32; `object` the same shape, int64: an object's number in the batch, -1 where the image
    has fewer objects.
    """

    iou: Tensor
    object: Tensor


def overlap(
    maps: Maps, objects: Sequence[Sequence[Annotation]], size: tuple[int, int], grid: tuple[int, int],
    resize: str = "nearest",
) -> Overlap:  # fmt: skip
    """IoU of each pair's binary map with every object of its image.

    "nearest" brings the map up to the mask's pixels (INFERRED, the default), "grid" the mask down to the map's cells:
    those that it covers by half or more.
    """
    if resize not in ("nearest", "grid"):
        raise unknown("resizing of maps and masks", resize, ("nearest", "grid"))
    positions, most = grid[0] * grid[1], max((len(own) for own in objects), default=0)
    number = torch.full((len(objects), most), -1)
    table = torch.zeros(len(objects), positions, most + 1)
    area = areas(size, grid)
    table[:, :, most] = area if resize == "nearest" else 1.0
    start = 0
    for image, own in enumerate(objects):
        if own:
            number[image, : len(own)] = torch.arange(start, start + len(own))
            pixels = cells(torch.stack([found.mask for found in own]), grid)
            covered = pixels if resize == "nearest" else (2 * pixels >= area).float()
            table[image, :, : len(own)] = covered.T
            start += len(own)
    both = maps.sum_over(table.flatten(0, 1))
    masks = table[:, :, :most].sum(1)[maps.image]
    union = both[:, most:] + masks - both[:, :most]
    return Overlap(both[:, :most] / union.clamp_min(1.0), number[maps.image])
