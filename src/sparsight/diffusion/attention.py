"""Cross-attention weights of chosen passes, beside the output that they make: what attribution maps are drawn from.

Source: DAAM (Tang et al. 2023) reads them; the pass itself is the pipeline's own, bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from sparsight.diffusion.attention_control import processors
from sparsight.errors import SparsightError

Attention = dict[str, tuple[Tensor, tuple[int, int]]]
"""Weights (rows, heads, positions, words) of each layer by its path, with the layer's grid (height, width)."""


class _Listening:
    """An attention processor that lets another one work, and keeps the weights that it must have used."""

    def __init__(self, own: Any, name: str, kept: Attention) -> None:
        self.own, self.name, self.kept = own, name, kept

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, **rest: Any
    ) -> Any:
        assert encoder_hidden_states is not None
        query = attn.head_to_batch_dim(attn.to_q(hidden_states))
        key = attn.head_to_batch_dim(attn.to_k(encoder_hidden_states))
        weights = attn.get_attention_scores(query, key).unflatten(0, (len(hidden_states), -1))
        side = round(hidden_states.shape[1] ** 0.5)
        self.kept[self.name] = (weights.detach(), (side, hidden_states.shape[1] // side))
        return self.own(attn, hidden_states, encoder_hidden_states=encoder_hidden_states, **rest)


@contextmanager
def listen_to_attention(denoiser: Any) -> Iterator[Attention]:
    """Keep the cross-attention weights of the last pass inside this context, of every layer that looks at the text.

    The maps are taken for square. Raises `SparsightError` for a denoiser without cross-attention.
    """
    layers = {name: m for name, m in denoiser.named_modules() if name.endswith("attn2") and hasattr(m, "processor")}
    if not layers:
        raise SparsightError("this model has no cross-attention to listen to")
    kept: Attention = {}
    with processors(layers, lambda name, own: _Listening(own, name, kept)):
        yield kept
