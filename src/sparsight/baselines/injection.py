"""Prompt-to-Prompt's control of attention (arXiv 2208.01626): maps of the source's pass in the edited one, and local blend."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sparsight.baselines.two_paths import PathControl, WordMaps
from sparsight.diffusion.attention_control import Layer


@dataclass
class Blending:
    """Word maps of both paths, and where their union lies."""

    source: WordMaps
    edited: WordMaps
    threshold: float

    def __call__(self, x_t: Tensor, source: Tensor) -> Tensor:
        """`x_t` (B, c, h, w) inside either mask, `source` elsewhere."""
        masks = [maps.mask(self.threshold, spread=True) for maps in (self.source, self.edited)]
        if masks[0] is None or masks[1] is None:
            return x_t
        return torch.where((masks[0] | masks[1])[:, None], x_t, source)


@dataclass
class Injection(PathControl):
    """Puts the source's weights into the edited pass. `matrix` (P, L, L) and `new` (P, L) are those of `aligned`."""

    matrix: Tensor
    new: Tensor
    images: int
    cross_steps: int
    self_steps: int
    positions: int
    blending: Blending | None = None

    def __post_init__(self) -> None:
        self.heard: dict[str, Tensor] = {}

    def wants(self, layer: Layer) -> bool:
        """Layers that are injected in this step, and cross-attention always where masks are made of it."""
        if layer.cross:
            return self.blending is not None or self.index < self.cross_steps
        return self.index < self.self_steps

    def weights(self, layer: Layer, weights: Tensor) -> Tensor:
        """Keep the source's; in the edited pass mix them in."""
        if not self.listening:
            weights = self._injected(layer, weights)
        if layer.cross and self.blending is not None and weights.shape[2] <= self.positions:
            (self.blending.source if self.listening else self.blending.edited).add(layer, weights)
        if self.listening:
            self.heard[layer.name] = weights[-self.images :]
        return weights

    def _injected(self, layer: Layer, weights: Tensor) -> Tensor:
        if self.index >= (self.cross_steps if layer.cross else self.self_steps):
            return weights
        source, own = self.heard[layer.name], weights[-self.images :]
        if layer.cross:
            source = source @ self.matrix[:, None].to(own) + own * self.new[:, None, None].to(own)
        elif weights.shape[2] > self.positions:
            return weights
        return torch.cat([weights[: -self.images], source])

    def blend(self, x_t: Tensor, source: Tensor) -> Tensor:
        """Local blend, from the second step on."""
        return x_t if self.blending is None else self.blending(x_t, source)
