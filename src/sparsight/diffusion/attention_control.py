"""Take part in attention: replace what a layer attends with, and to, inside a context that puts everything back.

Prompt-to-Prompt (arXiv 2208.01626) changes the weights of chosen layers, MasaCtrl (arXiv 2304.08465) the keys and values;
both say so in an `AttentionControl`. Layers that a control does not want run their own processor, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from sparsight.errors import SparsightError

PARTS = ("down_blocks", "mid_block", "up_blocks")  # a U-Net runs in this order, but lists its modules in another


@dataclass(frozen=True)
class Layer:
    """An attention layer by its path; `index` counts the `count` layers of its kind in the order in which they run."""

    name: str
    cross: bool
    index: int
    count: int


class AttentionControl:
    """What takes part in attention. Each of the three does nothing by default.

    Shapes: query, key and value (rows, heads, positions or words, d); weights (rows, heads, positions, positions or
    words), each row of them summing to 1. With guidance the rows are the negative half, then the conditional one.
    """

    def wants(self, layer: Layer) -> bool:
        """Whether the next call of this layer is of interest; asked at every call."""
        return True

    def parts(self, layer: Layer, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The query, key and value to attend with."""
        return query, key, value

    def weights(self, layer: Layer, weights: Tensor) -> Tensor:
        """The weights to attend with."""
        return weights


class _Controlled:
    """An attention processor that asks a control; equal to the layer's own up to rounding where nothing is changed."""

    def __init__(self, own: Any, layer: Layer, control: AttentionControl) -> None:
        self.own, self.layer, self.control = own, layer, control

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None, **rest: Any,
    ) -> Tensor:  # fmt: skip
        if not self.control.wants(self.layer):
            return self.own(
                attn, hidden_states, encoder_hidden_states=encoder_hidden_states, attention_mask=attention_mask, **rest
            )
        if attention_mask is not None:
            raise SparsightError(f"attention at {self.layer.name} is masked, which cannot be taken part in")
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        split = lambda x: x.unflatten(-1, (attn.heads, -1)).transpose(1, 2)  # noqa: E731
        query, key, value = split(attn.to_q(hidden_states)), split(attn.to_k(context)), split(attn.to_v(context))
        query, key, value = self.control.parts(self.layer, query, key, value)
        weights = attn.get_attention_scores(query.flatten(0, 1), key.flatten(0, 1)).unflatten(0, query.shape[:2])
        mixed = (self.control.weights(self.layer, weights) @ value).transpose(1, 2).flatten(2)
        return attn.to_out[1](attn.to_out[0](mixed)) / attn.rescale_output_factor


def attention_layers(denoiser: nn.Module) -> dict[Layer, Any]:
    """Self-attention (`attn1`) and cross-attention (`attn2`) layers of a U-Net with prompts, in the order in which they run.

    Raises `SparsightError` for a model without cross-attention, and for layers with norms of their own.
    """
    named = [(n, m) for n, m in denoiser.named_modules() if n.endswith(("attn1", "attn2")) and hasattr(m, "processor")]
    named.sort(key=lambda pair: PARTS.index(pair[0].split(".")[0]) if pair[0].split(".")[0] in PARTS else len(PARTS))
    kinds = {kind: [n for n, _ in named if n.endswith(kind)] for kind in ("attn1", "attn2")}
    if not kinds["attn2"]:
        raise SparsightError("this model has no cross-attention to take part in")
    found: dict[Layer, Any] = {}
    for name, module in named:
        if any(
            getattr(module, part, None) is not None for part in ("group_norm", "spatial_norm", "norm_q", "norm_cross")
        ):
            raise SparsightError(f"attention at {name} has norms of its own, which is not supported")
        own = kinds[name[-5:]]
        found[Layer(name, name.endswith("attn2"), own.index(name), len(own))] = module
    return found


@contextmanager
def processors(modules: Mapping[str, Any], wrap: Callable[[str, Any], Any]) -> Iterator[None]:
    """Put `wrap(name, own processor)` in the place of each module's processor, and the own ones back whatever happens."""
    own = {name: module.processor for name, module in modules.items()}
    try:
        for name, module in modules.items():
            module.processor = wrap(name, own[name])
        yield
    finally:
        for name, module in modules.items():
            module.processor = own[name]


@contextmanager
def control_attention(denoiser: nn.Module, control: AttentionControl) -> Iterator[None]:
    """Let `control` take part in every pass of the denoiser inside this context. Raises as `attention_layers` does."""
    layers = {layer.name: (layer, module) for layer, module in attention_layers(denoiser).items()}
    wrap = lambda name, own: _Controlled(own, layers[name][0], control)  # noqa: E731
    with processors({name: module for name, (_, module) in layers.items()}, wrap):
        yield


def grid_of(positions: int) -> tuple[int, int]:
    """(height, width) of a layer's positions; maps are taken for square."""
    side = round(positions**0.5)
    return side, positions // side
