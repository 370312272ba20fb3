"""Low-rank layers of peft (Hu et al., ICLR 2022, arXiv 2106.09685) that a model has only inside a context."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import nn

from sparsight.diffusion.model import DiffusionModel
from sparsight.errors import SparsightError

NAME = "slider"


@dataclass(frozen=True)
class Lora:
    """Low-rank layers beside linear ones, and where they belong; the model has them only inside `on_model`."""

    layers: Mapping[str, Any]
    size: float  # alpha / rank

    @classmethod
    def on(cls, model: DiffusionModel, within: tuple[str, ...], rank: int, alpha: float) -> Lora:
        """New layers, which change nothing yet, for the linear layers whose path has one of `within` in it."""
        from peft import LoraConfig, inject_adapter_in_model

        linear = {
            name: module
            for name, module in model.denoiser.named_modules()
            if isinstance(module, nn.Linear) and any(part in f"{name}." for part in within)
        }
        if not linear:
            raise SparsightError("this model has no attention layers for a slider")
        # peft is given the layers and not the model, which it would mark
        holder = nn.ModuleDict({name.replace(".", "/"): module for name, module in linear.items()})
        config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(holder))  # type: ignore[arg-type]
        inject_adapter_in_model(config, holder, adapter_name=NAME)
        return cls({name: holder[name.replace(".", "/")] for name in linear}, alpha / rank)

    def scale(self, strength: float) -> None:
        """Set the factor of all layers; 0 is the model without them."""
        for layer in self.layers.values():
            layer.scaling[NAME] = strength * self.size

    def parameters(self) -> list[nn.Parameter]:
        """What is trained: A (rank, in) and B (out, rank) of each layer."""
        return [p for layer in self.layers.values() for p in layer.parameters() if p.requires_grad]

    @contextmanager
    def on_model(self, model: DiffusionModel, strength: float) -> Iterator[None]:
        """Put the layers in, at this scale, and the model's own back whatever happens."""
        try:
            self._put(model, inside=True)
            self.scale(strength)
            yield
        finally:
            self._put(model, inside=False)

    def _put(self, model: DiffusionModel, inside: bool) -> None:
        for name, layer in self.layers.items():
            parent, _, child = name.rpartition(".")
            setattr(model.denoiser.get_submodule(parent), child, layer if inside else layer.base_layer)
