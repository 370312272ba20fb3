"""Detect and replace: find an object, move its piece of the noisy latents, and let the model finish. No learning at all.

The plain rival of layout edits that act inside the model: if moving a rectangle of x_t does as well, nothing was gained.
The idea is that of the control in "Look But Don't Touch" (arXiv 2606.31699), which swaps flagged patches; the rule is ours.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sparsight.baselines.data import FitData
from sparsight.baselines.method import MASKS, Editor, Method, Plan
from sparsight.baselines.regions import Area, area_of
from sparsight.concepts.concept import Concept
from sparsight.diffusion.conditioning import Conditioning
from sparsight.diffusion.model import DiffusionModel
from sparsight.errors import SparsightError, unknown
from sparsight.metrics import QUADRANTS

Box = tuple[int, int, int, int]  # top, left, height, width in latents


@dataclass(frozen=True)
class DetectAndReplace(Method):
    """Moves what the concept's object or source text names (or `word`) to the middle of the quadrant `to`: "concept" is its own.

    1. The unedited image is sampled, and the source of masks says where the object is. 2. Its box is brought to the
    latents' grid, every cell that it touches included. 3. At the step nearest to the strength's share of the run, the
    box's content of x_t and that of an equal box around the quadrant's middle (kept inside the image) change places.
    4. The remaining steps run as always, with the prompt as it is. Where nothing is found, the image stays.

    Strength s is the noise level of the exchange as a share of the run's: at 1 it is made in x_T itself, and near 0
    pixels are moved. At a negative strength the object's box is overwritten by the other one's content, which stays.
    """

    name = "detect_and_replace"
    title = "detect and replace"
    paper = "control; after arXiv 2606.31699"
    needs = frozenset({MASKS})

    to: str = "top-left"
    word: str = ""

    def __post_init__(self) -> None:
        if self.to not in (*QUADRANTS, "concept"):
            raise unknown("quadrant", self.to, (*QUADRANTS, "concept"))

    def unfit(self, concept: Concept) -> str | None:
        """It moves objects to places."""
        return (
            "it moves an object to a place, and this concept has none"
            if self.to == "concept" and not concept.place
            else None
        )

    def fit(self, concept: Concept, data: FitData) -> Editor:
        """Nothing is learned."""
        return ReplaceEditor(
            area_of("masks", self.word, concept, data), str(concept.place) if self.to == "concept" else self.to
        )


@dataclass
class ReplaceEditor(Editor):
    """Exchanges two boxes of the state once in a run."""

    area: Area
    to: str
    boxes: list[Box | None] | None = field(default=None, init=False, repr=False)
    stamp: int = field(default=-1, init=False, repr=False)
    unit = "the noise level of the exchange, as a share of the run's (above 1: its start)"

    @contextmanager
    def context(self, model: DiffusionModel, strength: float, plan: Plan) -> Iterator[None]:
        """Looks for the object, and chooses the step."""
        if strength != 0:
            stamps = [t for t, _ in model.pairs(plan.loop.steps)]
            self.stamp = min(stamps, key=lambda t: abs(t - abs(strength) * stamps[0]))
            grid = (plan.noise.shape[-2], plan.noise.shape[-1])
            self.boxes = [box_of(mask, grid) for mask in self.area.seen(model, plan)]
        try:
            yield
        finally:
            self.boxes = None

    def move(
        self, model: DiffusionModel, x_t: Tensor, t: int, strength: float, conditioning: Conditioning | None = None
    ) -> Tensor:
        """The exchange, at its step. Raises `SparsightError` outside of the context, except at strength 0."""
        if strength == 0:
            return x_t
        if self.boxes is None:
            raise SparsightError("objects are looked for inside the editor's context only: use edit_images")
        if t != self.stamp:
            return x_t
        rows = [
            x if box is None else exchanged(x, box, self.to, both=strength > 0)
            for x, box in zip(x_t, self.boxes, strict=True)
        ]
        return torch.stack(rows)


def box_of(mask: Tensor, grid: tuple[int, int]) -> Box | None:
    """The smallest box of the grid around a mask (H, W) bool; None for an empty one."""
    if not bool(mask.any()):
        return None
    height, width = mask.shape
    rows, columns = mask.any(1).nonzero().flatten(), mask.any(0).nonzero().flatten()
    top, left = int(rows[0]) * grid[0] // height, int(columns[0]) * grid[1] // width
    bottom, right = -(-(int(rows[-1]) + 1) * grid[0] // height), -(-(int(columns[-1]) + 1) * grid[1] // width)
    return top, left, bottom - top, right - left


def target_of(box: Box, to: str, grid: tuple[int, int]) -> Box:
    """A box of the same size around the middle of a quadrant, moved inside the grid where it stands out."""
    starts = []
    for size, side, first in zip(box[2:], grid, (to.startswith("top"), to.endswith("left")), strict=True):
        middle = side / 4 if first else 3 * side / 4
        starts.append(min(max(round(middle - size / 2), 0), side - size))
    return starts[0], starts[1], box[2], box[3]


def exchanged(x: Tensor, box: Box, to: str, both: bool) -> Tensor:
    """The state (c, h, w) with the content of the two boxes exchanged; not `both`: the target's copied to the object's.

    Where the boxes overlap, the object's content wins at the target.
    """
    target, moved = target_of(box, to, (x.shape[-2], x.shape[-1])), x.clone()
    cut = lambda b: (slice(None), slice(b[0], b[0] + b[2]), slice(b[1], b[1] + b[3]))  # noqa: E731
    moved[cut(box)] = x[cut(target)]
    if both:
        moved[cut(target)] = x[cut(box)]
    return moved
