"""Concept Sliders from image pairs (Gandikota et al., ECCV 2024, arXiv 2311.12092): a low-rank change of the weights.

With the slider at +1 the model shall denoise the images after the edit, at -1 those before it, both noised alike:

    L = mean |eps_{+}(x_t after) - eps|^2 + mean |eps_{-}(x_t before) - eps|^2

It needs the package peft for training; the editor is plain weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sparsight.baselines.data import FitData
from sparsight.baselines.lora import Lora, needs_peft
from sparsight.baselines.method import GRADIENTS, PAIRS, Editor, Method, Plan
from sparsight.concepts.concept import Concept
from sparsight.diffusion.model import DiffusionModel


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
        return needs_peft()

    def fit(self, concept: Concept, data: FitData) -> Editor:
        """Train the LoRA on the pairs and take its product out of the model, which is left as it was."""
        before, after = (data.model.encode(side.to(data.model.device)) for side in data.pairs(concept))
        generator = torch.Generator().manual_seed(data.seed)
        slider = Lora.on(data.model, slid(data.model.denoiser), self.rank, self.alpha, data.seed)
        optimizer = torch.optim.AdamW(slider.parameters(), lr=self.lr)
        with slider.on_model(data.model, 1.0):
            for _ in range(self.updates):
                row = int(torch.randint(len(after), (1,), generator=generator))
                t = int(torch.randint(len(data.model.schedule.signals) - 1, (1,), generator=generator))
                noise = torch.randn(after[:1].shape, generator=generator).to(after)
                optimizer.zero_grad()
                for scale, side in ((1.0, after), (-1.0, before)):  # one at a time: both share the layers' scale
                    side_loss(data.model, slider, scale, side[row : row + 1], noise, t).backward()
                optimizer.step()
        return WeightEditor(slider.deltas())


def slid(denoiser: nn.Module) -> list[str]:
    """The paths of the layers that a slider changes."""
    return [
        path
        for path, module in denoiser.named_modules()
        if isinstance(module, (nn.Linear, nn.Conv2d)) and "attn2" not in path and "time_emb" not in path
    ]


def side_loss(model: DiffusionModel, slider: Lora, scale: float, latents: Tensor, noise: Tensor, t: int) -> Tensor:
    """The squared error of the noise predicted at `scale` on latents (B, c, h, w) noised to `t`: scalar."""
    slider.scale(scale)
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
