"""What composition read from codes must beat: chance, the mean map of a noun, and the cross-attention of the same step.

All give maps of scores (n, h, w) for the same targets, and so go through the same thresholds and the same IoU.
PCA in place of the SAE is `pca.PcaCoder`, whose codes go through the dictionary like an SAE's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sparsight.concepts.annotation import Annotation, united
from sparsight.concepts.maps import coverage
from sparsight.concepts.targets import Targets
from sparsight.errors import SparsightError, unknown

CHANCES = ("pixels", "shifted")


def chance_iou(masks: Tensor, kind: str = "pixels") -> Tensor:
    """The expected IoU of each mask (n, H, W) bool with a random one of its area: (n,) fp64, exact.

    "pixels" draws the mask's number m of pixels out of all N at once: the overlap is hypergeometric, and the answer
    close to f / (2 - f) with f = m / N. "shifted" moves the mask itself to a random place of the torus: as large, and
    of the same shape, which is the fairer guess. An empty mask has 0.
    """
    if kind not in CHANCES:
        raise unknown("kind of chance", kind, CHANCES)
    if masks.ndim != 3 or masks.dtype != torch.bool:
        raise SparsightError(f"chance needs masks (n, H, W) bool, not {masks.dtype} {tuple(masks.shape)}")
    if kind == "shifted":
        return torch.stack([_shifted(mask) for mask in masks]) if len(masks) else torch.zeros(0, dtype=torch.float64)
    counts, pixels = masks.flatten(1).sum(1).tolist(), masks[0].numel() if len(masks) else 1
    known = {m: _drawn(m, pixels) for m in set(counts)}
    return torch.tensor([known[m] for m in counts], dtype=torch.float64)


def _drawn(m: int, pixels: int) -> float:
    """E[x / (2 m - x)] with x hypergeometric: m drawn out of `pixels`, m of which are marked."""
    if m == 0:
        return 0.0
    x = torch.arange(max(0, 2 * m - pixels), m + 1, dtype=torch.float64)
    choose = lambda n, k: torch.lgamma(n + 1) - torch.lgamma(k + 1) - torch.lgamma(n - k + 1)  # noqa: E731
    size, marked = torch.tensor(float(pixels), dtype=torch.float64), torch.tensor(float(m), dtype=torch.float64)
    weight = (choose(marked, x) + choose(size - marked, marked - x)).softmax(0)
    return float((weight * x / (2 * m - x)).sum())


def _shifted(mask: Tensor) -> Tensor:
    spectrum = torch.fft.rfft2(mask.double())
    both = torch.fft.irfft2(spectrum.abs().square(), s=mask.shape).round()  # overlap with itself at every shift
    return (both / (2 * mask.sum() - both).clamp_min(1)).mean()


class MeanMap:
    """Predicts for every noun where that noun was in the training images, on average; the image is not looked at.

    `grid` is the resolution of the maps. A noun that was never seen gets the mean over all objects.
    """

    def __init__(self, grid: tuple[int, int]) -> None:
        self.grid = grid
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def add(self, objects: Sequence[Sequence[Annotation]]) -> None:
        """Add the objects of a batch of training images."""
        for own in objects:
            for label, mask in united(own).items():
                share = coverage(mask, self.grid)
                self._sums[label] = self._sums.get(label, torch.zeros_like(share)) + share
                self._counts[label] = self._counts.get(label, 0) + 1

    def scores(self, targets: Targets) -> Tensor:
        """The mean maps of the targets' nouns, (n, h, w) in [0, 1]."""
        if not self._sums:
            raise SparsightError("the mean map has seen no training image")
        overall = torch.stack(list(self._sums.values())).sum(0) / sum(self._counts.values())
        maps = [self._sums[n] / self._counts[n] if n in self._sums else overall for n in targets.nouns]
        return torch.stack(maps).reshape(-1, *self.grid) if maps else torch.zeros(0, *self.grid)


def attention_maps(
    layers: Sequence[tuple[Tensor, tuple[int, int]]], grid: tuple[int, int], mode: str = "bicubic"
) -> Tensor:
    """Cross-attention of one step, aggregated as DAAM does (Tang et al. 2023): (B, words, h, w).

    `layers` are attention weights (B, heads, positions, words) with their grids; each is brought to `grid`, then heads
    are averaged and layers summed.
    """
    total: Tensor | None = None
    for weights, own in layers:
        if weights.ndim != 4 or weights.shape[2] != own[0] * own[1]:
            raise SparsightError(
                f"attention must be (B, heads, {own[0] * own[1]} positions, words) on {own[0]}x{own[1]}, not {tuple(weights.shape)}"
            )
        maps = weights.detach().float().cpu().mean(1).mT.unflatten(2, own)
        exact = {"align_corners": False} if mode in ("bilinear", "bicubic") else {}
        resized = F.interpolate(maps, grid, mode=mode, **exact).clamp_min(0)
        total = resized if total is None else total + resized
    if total is None:
        raise SparsightError("no attention was given")
    return total


def attention_scores(
    attention: Tensor, targets: Targets, places: Sequence[Sequence[int]], normalise: bool = True
) -> Tensor:
    """The maps of the targets' nouns: the mean over each noun's tokens `places[i]` of `attention` (B, words, h, w).

    With `normalise` each map is brought to [0, 1] by its minimum and maximum, as DAAM does before its threshold. A noun
    without tokens in its prompt gets zeros.
    """
    if len(places) != len(targets.nouns):
        raise SparsightError(f"{len(targets.nouns)} nouns need as many lists of token places, not {len(places)}")
    empty = attention.new_zeros(attention.shape[-2:])
    maps = [
        attention[i, list(own)].mean(0) if own else empty for i, own in zip(targets.image.tolist(), places, strict=True)
    ]
    stacked = torch.stack(maps) if maps else attention.new_zeros(0, *attention.shape[-2:])
    if not normalise or not len(stacked):
        return stacked
    low, high = stacked.amin((1, 2), keepdim=True), stacked.amax((1, 2), keepdim=True)
    return (stacked - low) / (high - low).clamp_min(1e-12)


def token_places(tokenizer: Any, prompt: str, noun: str) -> list[int]:
    """The places of a noun's tokens in its prompt's, at its first mention, or that of its plural; [] if it has none."""
    ids = tokenizer(prompt)["input_ids"]
    for form in (noun, f"{noun}s", f"{noun}es"):
        own = tokenizer(form, add_special_tokens=False)["input_ids"]
        for start in range(len(ids) - len(own) + 1):
            if own and ids[start : start + len(own)] == own:
                return list(range(start, start + len(own)))
    return []
