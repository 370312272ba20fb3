"""What a latent's maps look like over many images: the way to styles, and past latents that see no context.

Source: Tinaz et al. 2025, appendices D, G and H. Three kinds of latents: local semantics; global or style, whose maps
are near-uniform; context-free, which fire at fixed corners and edges whatever the image shows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from sparsight.concepts.maps import Maps
from sparsight.errors import SparsightError, unknown

TOP = 16  # images that are remembered for each latent
MEASURES = ("evenness", "coverage")


@dataclass(eq=False)
class MapStatistics:
    """Sums over images, float64, for each latent.

    `images` () int64; `active` (latents,) images in which it fires anywhere; `total` (latents, positions) and
    `squares` its activations and their squares; `even` and `covered` (latents,) the sums over those images of mean / max
    of its map, and of the share of positions at which it fires; `top` (latents, 16) int64 the numbers of the images
    with the largest spatial mean, -1 where there are fewer, and `top_mean` that mean.
    """

    images: Tensor
    active: Tensor
    total: Tensor
    squares: Tensor
    even: Tensor
    covered: Tensor
    top: Tensor
    top_mean: Tensor

    @classmethod
    def empty(cls, latents: int, positions: int) -> MapStatistics:
        """No images yet."""
        zeros, maps = torch.zeros(latents, dtype=torch.float64), torch.zeros(latents, positions, dtype=torch.float64)
        top = torch.full((latents, TOP), -1)
        return cls(
            torch.tensor(0), zeros, maps, maps.clone(), zeros.clone(), zeros.clone(), top, torch.zeros(top.shape)
        )

    def add(self, maps: Maps, numbers: Sequence[int]) -> None:
        """Add a batch's maps; `numbers` are its images' numbers."""
        positions = self.total.shape[1]
        values = maps.values.double()
        at = maps.latent[maps.pair] * positions + maps.tokens % positions
        self.total.view(-1).index_add_(0, at, values)
        self.squares.view(-1).index_add_(0, at, values.square())
        mean = torch.zeros(len(maps.image), dtype=torch.float64).index_add_(0, maps.pair, values) / positions
        self.active.index_add_(0, maps.latent, torch.ones_like(mean))
        self.even.index_add_(0, maps.latent, mean / maps.high.double())
        self.covered.index_add_(0, maps.latent, maps.offsets.diff().double() / positions)
        self.images += len(numbers)
        self._keep(maps.latent, torch.tensor(numbers, dtype=torch.int64)[maps.image], mean.float())

    def _keep(self, latent: Tensor, number: Tensor, mean: Tensor) -> None:
        """Merge a batch into the top images: those of the latents it touches are sorted again."""
        touched = latent.unique()
        rows = torch.cat([touched.repeat_interleave(TOP), latent])
        ids = torch.cat([self.top[touched].flatten(), number])
        means = torch.cat([self.top_mean[touched].flatten(), mean])
        order = means.argsort(descending=True, stable=True)
        order = order[rows[order].argsort(stable=True)]
        rows, ids, means = rows[order], ids[order], means[order]
        starts = torch.searchsorted(rows, rows)
        rank = torch.arange(len(rows)) - starts
        kept = rank < TOP
        self.top[rows[kept], rank[kept]], self.top_mean[rows[kept], rank[kept]] = ids[kept], means[kept]

    def mean_activation(self) -> Tensor:
        """The mean over images and positions, (latents,); the gamma of appendix H, averaged."""
        return (self.total.mean(1) / self.images.clamp_min(1)).float()

    def top_images(self, latent: int) -> list[int]:
        """The numbers of the images in which the latent's spatial mean is largest, best first (appendix H)."""
        return [number for number in self.top[latent].tolist() if number >= 0]

    def uniformity(self, measure: str = "evenness") -> Tensor:
        """How uniform a latent's maps are where it fires, (latents,) in [0, 1]; 0 for one that never does.

        "evenness" is mean / max of the map, 1 for a constant one; "coverage" the share of positions at which it fires.
        The paper gives no formula ("near-uniform maps"); both are ours.
        """
        if measure not in MEASURES:
            raise unknown("measure of uniformity", measure, MEASURES)
        return ((self.even if measure == "evenness" else self.covered) / self.active.clamp_min(1)).float()

    def variance(self, relative: bool = False) -> Tensor:
        """The variance of the activation over images, averaged over positions, (latents,).

        `relative` divides by the mean square, so that weak latents do not win by being weak (ours).
        """
        count = self.images.clamp_min(1)
        mean, square = self.total / count, self.squares / count
        spread = (square - mean.square()).clamp_min(0).mean(1)
        return (spread / square.mean(1).clamp_min(1e-300) if relative else spread).float()

    def style_latents(self, most: int = 10, *, measure: str = "evenness", share: float = 0.01) -> list[int]:
        """The latents with the most uniform maps, out of those that fire in at least `share` of the images."""
        return self._best(self.uniformity(measure), most, share)

    def context_free(self, most: int = 10, *, relative: bool = False, share: float = 0.5) -> list[int]:
        """The latents whose activation depends least on the image (appendix G), out of those that fire in `share` of them.

        Without that bound dead latents would win; the paper does not name one (INFERRED).
        """
        return self._best(-self.variance(relative), most, share)

    def _best(self, score: Tensor, most: int, share: float) -> list[int]:
        if most < 1 or not 0 <= share <= 1:
            raise SparsightError(
                f"a search needs 1 latent or more and a share of images in [0, 1], not {most} and {share}"
            )
        alive = (self.active > 0) & (self.active >= share * self.images)
        order = score.masked_fill(~alive, -torch.inf).argsort(descending=True, stable=True)
        return order[: min(most, int(alive.sum()))].tolist()

    def tensors(self) -> dict[str, Tensor]:
        """All sums by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}
