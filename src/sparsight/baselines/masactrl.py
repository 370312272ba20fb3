"""MasaCtrl (Cao et al., ICCV 2023, arXiv 2304.08465): the edited image looks at the unedited one's keys and values.

Mutual self-attention (its eq. 3): from step S and self-attention layer L on, the edited pass keeps its queries and takes
keys and values of the source's, in both halves of guidance. So it is laid out by the new prompt and looks like the image.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from sparsight.baselines.data import FitData
from sparsight.baselines.method import TEXT_TO_IMAGE, Editor, Method, Plan
from sparsight.baselines.retelling import mentions, wordless, words_of
from sparsight.baselines.two_paths import FREE, PathControl, TwoPathEditor, WordMaps
from sparsight.concepts.concept import Concept
from sparsight.diffusion.attention_control import Layer, grid_of
from sparsight.diffusion.conditioning import Conditioning
from sparsight.diffusion.model import DiffusionModel
from sparsight.errors import SparsightError


@dataclass(frozen=True)
class MasaCtrl(Method):
    """Strength s is S as a share of the steps: the first s of them belong to the new prompt (the paper's 4 of 50 is 0.08).

    `layer` is L, counted over self-attention layers in the order in which they run; None takes the paper's 10 of 16 as a
    share. With `masked` objects look at the source's object and the rest at its rest: masks are the maps of the concept's
    two texts in their prompts, summed over all steps and layers so far, scaled to [0, 1], above `threshold`.
    """

    name = "masactrl"
    title = "MasaCtrl"
    paper = "arXiv 2304.08465"
    needs = frozenset({TEXT_TO_IMAGE})

    layer: int | None = None
    masked: bool = False
    threshold: float = 0.1

    def __post_init__(self) -> None:
        if self.layer is not None and self.layer < 0:
            raise SparsightError(f"layer is {self.layer}, but layers are counted from 0")

    def unfit(self, concept: Concept) -> str | None:
        """Words must tell the concept."""
        return wordless(concept)

    def fit(self, concept: Concept, data: FitData) -> Editor:
        """Nothing is learned."""
        return MasaCtrlEditor(concept, self)


@dataclass
class MasaCtrlEditor(TwoPathEditor):
    """Two paths, and self-attention from one to the other."""

    method: MasaCtrl
    unit = FREE
    own = 0.08

    def control(self, model: DiffusionModel, strength: float, plan: Plan, target: Conditioning) -> PathControl:
        """Mutual attention from step round(s * steps) on."""
        assert plan.conditioning is not None
        masks = None
        if self.method.masked:
            words, size = words_of(self.concept, strength), len(plan.noise)
            grid = (plan.noise.shape[-2], plan.noise.shape[-1])
            prompts = (plan.conditioning.prompts, target.prompts)
            source, edited = (
                WordMaps(list(mentions(model, p, w)), size, grid) for p, w in zip(prompts, words, strict=True)
            )
            masks = (source, edited)
        start = round(min(abs(strength), 1.0) * plan.loop.steps)
        return MutualAttention(start, self.method.layer, masks, self.method.threshold)


@dataclass
class MutualAttention(PathControl):
    """Keeps keys and values of the source's pass, and gives them to the edited one. `masks` are (source's, edited)."""

    start: int
    layer: int | None = None
    masks: tuple[WordMaps, WordMaps] | None = None
    threshold: float = 0.1

    def __post_init__(self) -> None:
        self.kept: dict[str, tuple[Tensor, Tensor]] = {}

    def wants(self, layer: Layer) -> bool:
        """Self-attention from S and L on; cross-attention where masks are made of it."""
        if layer.cross:
            return self.masks is not None
        first = math.ceil(layer.count * 10 / 16) if self.layer is None else self.layer
        return self.index >= self.start and layer.index >= first

    def parts(self, layer: Layer, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The source's keys and values in the edited pass."""
        if layer.cross:
            return query, key, value
        if self.listening:
            self.kept[layer.name] = (key, value)
            return query, key, value
        return query, *self.kept[layer.name]

    def weights(self, layer: Layer, weights: Tensor) -> Tensor:
        """Hear where the words are; with masks, object looks at object and the rest at the rest."""
        if layer.cross:
            assert self.masks is not None
            self.masks[0 if self.listening else 1].add(layer, weights)
            return weights
        if self.listening or self.masks is None:
            return weights
        source, edited = (self._on(maps, weights.shape[2]) for maps in self.masks)
        if source is None or edited is None:
            return weights
        same = edited[:, :, None] == source[:, None, :]
        allowed = same.repeat(len(weights) // len(same), 1, 1)[:, None].to(weights)
        kept = (weights * allowed).sum(-1, keepdim=True)
        # an empty mask leaves nothing to look at: such positions look everywhere
        return torch.where(kept > 0, weights * allowed / kept.clamp_min(1e-12), weights)

    def _on(self, maps: WordMaps, positions: int) -> Tensor | None:
        mask = maps.mask(self.threshold, spread=False)
        if mask is None:
            return None
        return F.interpolate(mask[:, None].float(), grid_of(positions), mode="nearest")[:, 0].flatten(1).bool()
