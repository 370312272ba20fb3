"""Low-rank layers of peft (Hu et al., ICLR 2022, arXiv 2106.09685) that a model has only inside a context."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from sparsight.diffusion.model import DiffusionModel
from sparsight.errors import SparsightError

NAME = "slider"


def needs_peft() -> str | None:
    """Why no layers can be trained here; None where peft is installed."""
    return None if find_spec("peft") else "it needs the package peft: pip install 'sparsight[sliders]'"


@dataclass(frozen=True)
class Lora:
    """Low-rank layers beside the model's own, and where they belong; the model has them only inside `on_model`."""

    layers: Mapping[str, Any]
    size: float  # alpha / rank

    @classmethod
    def on(cls, model: DiffusionModel, paths: Sequence[str], rank: int, alpha: float, seed: int) -> Lora:
        """New layers, which change nothing yet, for the linear maps and convolutions at `paths` of the denoiser.

        Raises `SparsightError` where there are none, and where peft is not installed.
        """
        if why := needs_peft():
            raise SparsightError(f"a slider cannot be trained: {why}")
        if not paths:
            raise SparsightError("this model has no layers of the kinds that a slider changes")
        from peft import LoraConfig, inject_adapter_in_model

        own = {path: model.denoiser.get_submodule(path) for path in paths}
        # peft is given the layers and not the model, which it would mark
        holder = nn.ModuleDict({path.replace(".", "/"): module for path, module in own.items()})
        config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(holder))  # type: ignore[arg-type]
        with torch.random.fork_rng(devices=[]):  # peft draws its first weights from the global generator
            torch.manual_seed(seed)
            inject_adapter_in_model(config, holder, adapter_name=NAME)
        return cls({path: holder[path.replace(".", "/")] for path in paths}, alpha / rank)

    def scale(self, strength: float) -> None:
        """Set the factor of all layers; 0 is the model without them."""
        for layer in self.layers.values():
            layer.scaling[NAME] = strength * self.size

    def parameters(self) -> list[nn.Parameter]:
        """What is trained: A (rank, in) and B (out, rank) of each layer."""
        return [p for layer in self.layers.values() for n, p in layer.named_parameters() if "lora_" in n]

    @torch.no_grad()
    def deltas(self) -> dict[str, Tensor]:
        """What the layers add to each weight at scale 1, by path, shaped like the weight."""
        self.scale(1.0)
        return {path: layer.get_delta_weight(NAME).clone() for path, layer in self.layers.items()}

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
