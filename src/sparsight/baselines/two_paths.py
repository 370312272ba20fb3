"""Edits by two prompts: the unedited image is sampled again beside the edited one, and lends it its attention.

Both paths start at the same noise and take the sampler's own steps. Before each step of the edited path the source's path
takes its own, while a control listens; the control then acts in the edited step. A step costs two passes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from sparsight.baselines.method import Editor, Plan
from sparsight.baselines.retelling import retold
from sparsight.concepts.concept import Concept
from sparsight.diffusion.attention_control import AttentionControl, Layer, control_attention, grid_of
from sparsight.diffusion.conditioning import Conditioning
from sparsight.diffusion.model import DiffusionModel
from sparsight.diffusion.sampling import walk
from sparsight.errors import SparsightError

FREE = "the share of the steps that the new prompt has for itself (above 1: all)"


class PathControl(AttentionControl):
    """A control that listens while the source's step is taken and acts in the edited one; `index` counts the steps."""

    listening: bool = False
    index: int = 0

    def turn(self, index: int, listening: bool) -> None:
        """Called before each pass."""
        self.index, self.listening = index, listening

    def blend(self, x_t: Tensor, source: Tensor) -> Tensor:
        """The edited state (B, c, h, w) that the next step starts from, given the source's at the same timestep."""
        return x_t


@dataclass
class _Run:
    plan: Plan
    told: Conditioning
    target: Conditioning
    control: PathControl
    x: Tensor
    index: dict[int, int]


@dataclass
class TwoPathEditor(Editor):
    """The base of editors with a source path. At strength 0 there is none, and the image is the unedited one.

    The prompts of the run are the source's; the edited path is told them with the concept's source text changed to its
    target, and the reverse at a negative strength.
    """

    concept: Concept
    run: _Run | None = field(default=None, init=False, repr=False)

    def control(self, model: DiffusionModel, strength: float, plan: Plan, target: Conditioning) -> PathControl:
        """What listens and acts in this run."""
        raise NotImplementedError

    def target(self, model: DiffusionModel, strength: float, plan: Plan) -> Conditioning:
        """What the edited path is told."""
        return retold(model, plan.conditioning, self.concept, strength)

    @contextmanager
    def context(self, model: DiffusionModel, strength: float, plan: Plan) -> Iterator[None]:
        """The control, and the start of the source's path. Raises `SparsightError` for a loop with noise of its own."""
        if strength == 0:
            yield
            return
        if plan.loop.eta != 0:
            raise SparsightError(
                f"two paths can only be compared without fresh noise: eta must be 0, not {plan.loop.eta}"
            )
        target = self.target(model, strength, plan)
        assert plan.conditioning is not None
        control = self.control(model, strength, plan, target)
        index = {t: i for i, (t, _) in enumerate(model.pairs(plan.loop.steps))}
        self.run = _Run(plan, plan.conditioning, target, control, plan.noise, index)
        try:
            with control_attention(model.denoiser, control):
                yield
        finally:
            self.run = None

    def _running(self) -> _Run:
        if self.run is None:
            raise SparsightError("an editor with two paths edits inside its context only: use edit_images")
        return self.run

    def told(self, conditioning: Conditioning | None, t: int, strength: float) -> Conditioning | None:
        """The target prompt, with the negative prompt of this step."""
        if strength == 0 or conditioning is None:
            return conditioning
        return replace(self._running().target, negative=conditioning.negative)

    def move(
        self, model: DiffusionModel, x_t: Tensor, t: int, strength: float, conditioning: Conditioning | None = None
    ) -> Tensor:
        """The source's path takes its step; the edited state itself is moved by a control that blends, if any."""
        if strength == 0:
            return x_t
        run = self._running()
        index, x_t = run.index[t], run.control.blend(x_t, run.x)
        told = replace(run.told, negative=conditioning.negative) if conditioning is not None else run.told
        run.control.turn(index, listening=True)
        run.x = next(walk(model, run.x, run.plan.loop, conditioning=told, start=index)).x_next
        run.control.turn(index, listening=False)
        return x_t


class WordMaps:
    """Where a word is, so far: its cross-attention, summed over the passes that were heard, for each of B images."""

    def __init__(self, places: list[list[int]], images: int, grid: tuple[int, int]) -> None:
        self.places = places * images if len(places) == 1 else places
        self.grid = grid
        self.total: Tensor | None = None

    def add(self, layer: Layer, weights: Tensor) -> None:
        """Hear cross-attention weights (rows, heads, positions, words); the last B rows are those that see the prompt."""
        own = weights[-len(self.places) :].float().mean(1)
        words = [own[i, :, places].mean(-1) if places else own[i, :, 0] * 0 for i, places in enumerate(self.places)]
        maps = torch.stack(words).unflatten(1, grid_of(own.shape[1]))
        resized = F.interpolate(maps[:, None], self.grid, mode="bilinear", align_corners=False)[:, 0]
        self.total = resized if self.total is None else self.total + resized

    def mask(self, threshold: float, spread: bool) -> Tensor | None:
        """Where the map is above `threshold`: (B, h, w) bool; None before anything was heard.

        With `spread` the map is first widened by a 3 x 3 maximum and divided by its own, as Prompt-to-Prompt does;
        without, it is brought to [0, 1] by its minimum and maximum, as MasaCtrl does.
        """
        if self.total is None:
            return None
        maps = F.max_pool2d(self.total, 3, 1, 1) if spread else self.total
        low = torch.zeros_like(maps[:, :1, :1]) if spread else maps.amin((1, 2), keepdim=True)
        return (maps - low) / (maps.amax((1, 2), keepdim=True) - low).clamp_min(1e-12) > threshold
