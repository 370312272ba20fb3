"""Concept Sliders from image pairs (Gandikota et al., ECCV 2024, arXiv 2311.12092): a low-rank change of the weights.

With the slider at +1 the model shall denoise the images after the edit, at -1 those before it, both noised alike:

    L = mean |eps_{+}(x_t after) - eps|^2 + mean |eps_{-}(x_t before) - eps|^2

It needs the package peft for training; the editor is plain weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sparsight.baselines.data import FitData
from sparsight.baselines.method import GRADIENTS, PAIRS, Editor, Method, Plan
from sparsight.concepts.concept import Concept
from sparsight.diffusion.model import DiffusionModel
from sparsight.errors import SparsightError

INSTALL = "image-pair Concept Sliders need the package peft: pip install 'sparsight[sliders]'"


@dataclass(frozen=True)
class ImageSlider(Method):
    """LoRA on all linear maps and convolutions but those of the cross-attention and the time embedding ("noxattn").

    The released settings: rank 4, alpha 1, AdamW, one pair an update. There is no text in it, so that it works on models
    without prompts; the text slider is another method. It acts at every timestep.
    """

    name = "image_slider"
    title = "Concept Slider, image pairs"
    paper = "arXiv 2311.12092"
    needs = frozenset({PAIRS, GRADIENTS})

    rank: int = 4
    alpha: float = 1.0
    lr: float = 2e-4
    updates: int = 1000

    def refusal(self, data: FitData) -> str | None:
        """Training needs peft, and here a model that takes no prompts."""
        if data.model.takes_prompts:
            return "it is trained on a model without prompts"
        return None if has_peft() else INSTALL

    def fit(self, concept: Concept, data: FitData) -> Editor:
        """Train the LoRA on the pairs and take its product out of the model, which is left as it was."""
        before, after = (data.model.encode(side.to(data.model.device)) for side in data.pairs(concept))
        generator = torch.Generator().manual_seed(data.seed)
        with lora(data.model, self.rank, self.alpha, data.seed) as layers:
            weights = [p for layer in layers.values() for n, p in layer.named_parameters() if "lora_" in n]
            optimizer = torch.optim.AdamW(weights, lr=self.lr)
            for _ in range(self.updates):
                row = int(torch.randint(len(after), (1,), generator=generator))
                t = int(torch.randint(len(data.model.schedule.signals) - 1, (1,), generator=generator))
                noise = torch.randn(after[:1].shape, generator=generator).to(after)
                optimizer.zero_grad()
                for scale, side in ((1.0, after), (-1.0, before)):  # one at a time: both share the layers' scale
                    side_loss(data.model, layers, scale, side[row : row + 1], noise, t).backward()
                optimizer.step()
            deltas = trained(layers)
        return WeightEditor(deltas)


def has_peft() -> bool:
    """Whether peft can be imported."""
    from importlib.util import find_spec

    return find_spec("peft") is not None


def slid(denoiser: nn.Module) -> list[str]:
    """The paths of the layers that a slider changes."""
    return [
        path
        for path, module in denoiser.named_modules()
        if isinstance(module, (nn.Linear, nn.Conv2d)) and "attn2" not in path and "time_emb" not in path
    ]


@contextmanager
def lora(model: DiffusionModel, rank: int, alpha: float, seed: int) -> Iterator[dict[str, Any]]:
    """Put peft's LoRA layers into the denoiser, by path, and take them out again whatever happens.

    Raises `SparsightError` where peft is not installed.
    """
    if not has_peft():
        raise SparsightError(INSTALL)
    from peft import LoraConfig, inject_adapter_in_model

    denoiser, paths = model.denoiser, slid(model.denoiser)
    own = {path: denoiser.get_submodule(path) for path in paths}
    asked = [(p, p.requires_grad) for p in denoiser.parameters()]
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=alpha, target_modules=paths), denoiser)
        yield {path: denoiser.get_submodule(path) for path in paths}
    finally:
        for path, module in own.items():
            parent, _, name = path.rpartition(".")
            setattr(denoiser.get_submodule(parent), name, module)
        for parameter, wanted in asked:
            parameter.requires_grad_(wanted)
        if hasattr(denoiser, "peft_config"):
            del denoiser.peft_config


def trained(layers: dict[str, Any]) -> dict[str, Tensor]:
    """What the slider at +1 adds to each layer's weight."""
    for layer in layers.values():
        layer.set_scale("default", 1.0)  # the last side that was trained is -1
    return {path: layer.get_delta_weight("default").detach().clone() for path, layer in layers.items()}


def side_loss(
    model: DiffusionModel, layers: dict[str, Any], scale: float, latents: Tensor, noise: Tensor, t: int
) -> Tensor:
    """The squared error of the noise predicted at `scale` on latents (B, c, h, w) noised to `t`: scalar."""
    for layer in layers.values():
        layer.set_scale("default", scale)  # times alpha / rank
    predicted = model.predict(model.schedule.add_noise(latents, noise, t), t).eps
    return (predicted - noise).square().mean()


@dataclass(frozen=True)
class WeightEditor(Editor):
    """Adds strength x `deltas` {path: like the layer's weight} to the denoiser's weights for the length of a run."""

    deltas: dict[str, Tensor]
    unit = "the slider at which it was trained"
    own = 1.0

    @contextmanager
    def _changed(self, model: DiffusionModel, strength: float) -> Iterator[None]:
        weights = {path: model.denoiser.get_submodule(path).weight for path in self.deltas} if strength else {}
        kept = {path: weight.detach().clone() for path, weight in weights.items()}
        try:
            with torch.no_grad():
                for path, weight in weights.items():
                    weight.add_(strength * self.deltas[path].to(weight))
            yield
        finally:
            with torch.no_grad():
                for path, weight in weights.items():
                    weight.copy_(kept[path])  # subtracting again would leave rounding behind

    def context(self, model: DiffusionModel, strength: float, plan: Plan) -> AbstractContextManager[object]:
        """The changed weights."""
        return self._changed(model, strength)
