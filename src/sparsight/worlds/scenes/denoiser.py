"""Training of the scenes' text-to-image model: U-Net and text encoder together, captions drawn anew each time."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from torch import Tensor, nn
from transformers import CLIPTextModel

from sparsight.worlds.scenes.captions import caption
from sparsight.worlds.scenes.scene import Scene
from sparsight.worlds.scenes.text import build_text_encoder, build_tokenizer, encode_words
from sparsight.worlds.scenes.unet import build_scheduler, build_unet, export_unet, without_skips
from sparsight.worlds.training import Progress, Training


@dataclass(frozen=True)
class DenoiserConfig:
    """How the model is trained. `dropout` is the share of captions replaced by the empty one, for guidance; `middle` the
    share of the others that the middle block alone may read, so that it learns to decide what is drawn where.
    """

    steps: int = 18_000
    batch_size: int = 16
    learning_rate: float = 5e-4
    warmup: int = 200
    ema: float = 0.998
    dropout: float = 0.1
    middle: float = 0.5
    seed: int = 0


class TextToImage(nn.Module):
    """The U-Net and the text encoder as one module, so that one optimiser and one average hold both."""

    def __init__(self) -> None:
        super().__init__()
        self.unet = without_skips(build_unet()).to(memory_format=torch.channels_last)
        self.text: Any = build_text_encoder()
        self._outside: Tensor | None = None  # what the blocks outside the middle read instead of the text
        for name, block in self.unet.named_modules():
            if isinstance(block, Transformer2DModel) and not name.startswith("mid_block"):
                block.register_forward_pre_hook(self._hide, with_kwargs=True)

    def forward(self, x: Tensor, t: Tensor, tokens: Tensor, blank: Tensor | None = None) -> Tensor:
        """Predicted v (B, 8, 16, 16) of noisy latents at timesteps (B,), given token numbers (B, 24).

        Blocks outside the middle read `blank` (B, 24), other token numbers, if those are given.
        """
        states = self.text(input_ids=tokens).last_hidden_state
        self._outside = None if blank is None else self.text(input_ids=blank).last_hidden_state
        return self.unet(x, t, encoder_hidden_states=states).sample

    def _hide(self, _block: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        return args, kwargs if self._outside is None else kwargs | {"encoder_hidden_states": self._outside}


def start_training(folder: Path, config: DenoiserConfig) -> Training:
    """A training that goes on from the checkpoint in `folder`, if there is one."""
    torch.manual_seed(config.seed)
    return Training(TextToImage(), folder, steps=config.steps, learning_rate=config.learning_rate,
                    warmup=config.warmup, ema=config.ema, seed=config.seed)  # fmt: skip


def train_denoiser(
    latents: Tensor, scenes: Sequence[Scene], folder: Path, config: DenoiserConfig, progress: Progress | None = None
) -> tuple[UNet2DConditionModel, CLIPTextModel]:
    """Train on `latents` (n, 8, 16, 16) of unit variance; resumes from `folder`. Returns the EMA models, exported."""
    training = start_training(folder, config)
    # Plain attention runs a third faster in training than the fused one does on a CPU; the numbers are the same.
    training.model.unet.set_attn_processor(AttnProcessor())  # type: ignore[operator, union-attr]
    training.run(_loss(training.model, latents, scenes, config), progress)
    return exported(training)


def exported(training: Training) -> tuple[UNet2DConditionModel, CLIPTextModel]:
    """The averaged models of a training, however far it is, as ordinary ones."""
    averaged = copy.deepcopy(training.averaged)
    assert isinstance(averaged, TextToImage)
    return export_unet(averaged.unet), averaged.text.eval()


def _loss(
    model: nn.Module, latents: Tensor, scenes: Sequence[Scene], config: DenoiserConfig
) -> Callable[[torch.Generator], Tensor]:
    tokenizer, alphas, count = build_tokenizer(), build_scheduler().alphas_cumprod, config.batch_size

    def captions(chosen: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        rng = random.Random(int(torch.randint(2**31, (), generator=generator)))
        said = ["" if rng.random() < config.dropout else caption(scenes[i], rng) for i in chosen.tolist()]
        outside = ["" if rng.random() < config.middle else text for text in said]
        return encode_words(tokenizer, said), encode_words(tokenizer, outside)

    def loss(generator: torch.Generator) -> Tensor:
        chosen = torch.randint(len(latents), (count,), generator=generator)
        x0, (tokens, outside) = latents[chosen].float(), captions(chosen, generator)
        t = _times(count, len(alphas), generator)
        noise = torch.randn(x0.shape, generator=generator)
        signal, sigma = alphas[t].sqrt().view(-1, 1, 1, 1), (1 - alphas[t]).sqrt().view(-1, 1, 1, 1)
        x_t = (signal * x0 + sigma * noise).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            predicted = model(x_t, t, tokens, outside)
        return (predicted.float() - (signal * noise - sigma * x0)).square().mean()

    return loss


def _times(count: int, total: int, generator: torch.Generator) -> Tensor:
    """Timesteps (count,) int64: every other one uniform, the rest logit-normal, where objects are decided.

    One from each of `count` equal spans of the quantiles: the same average as independent times, with less noise.
    Source of the logit-normal: Esser et al. 2024 (arXiv 2403.03206), section 3.1.
    """
    share = (torch.arange(count) + torch.rand(count, generator=generator)) / count
    focused = torch.sigmoid(torch.special.ndtri(share.clamp(1e-4, 1 - 1e-4)) + 0.4)
    return (torch.where(torch.arange(count) % 2 == 0, share, focused) * total).long().clamp_max(total - 1)
