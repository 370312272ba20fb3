"""The adapter for Stable Diffusion 1.x and 2.x: prompts, and guidance whose two halves run in one batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sparsight.diffusion.conditioning import Conditioning, cut_off, encode_prompts, unknown_words
from sparsight.diffusion.model import DiffusionModel
from sparsight.diffusion.sites import site_names
from sparsight.diffusion.survey import SiteInfo, survey
from sparsight.errors import SparsightError


class TextToImage(DiffusionModel):
    """A `StableDiffusionPipeline`, with epsilon or v prediction. Every pass needs a `Conditioning`.

    The loop is DDIM's, whatever scheduler the folder names: its config is read as DDIM's, as
    `DDIMScheduler.from_config` does.
    """

    def __init__(
        self, denoiser: Any, scheduler: Any, autoencoder: Any = None, text_encoder: Any = None, tokenizer: Any = None,
        name: str = "",
    ) -> None:  # fmt: skip
        super().__init__(denoiser, as_ddim(scheduler), autoencoder, name)
        self.text_encoder, self.tokenizer = text_encoder, tokenizer
        if text_encoder is not None:
            text_encoder.eval().requires_grad_(False)

    @classmethod
    def of(cls, pipeline: Any, name: str) -> TextToImage:
        """From a pipeline in memory. Raises `SparsightError` for U-Nets that want more than a prompt."""
        config = pipeline.unet.config
        for option in ("time_cond_proj_dim", "class_embed_type", "addition_embed_type", "encoder_hid_dim_type"):
            if config.get(option) is not None:
                raise SparsightError(f"{name or 'this model'} wants more than a prompt ({option}): it is not supported")
        return cls(pipeline.unet, pipeline.scheduler, pipeline.vae, pipeline.text_encoder, pipeline.tokenizer, name)

    @property
    def takes_prompts(self) -> bool:
        """True: every pass needs a `Conditioning`."""
        return True

    def to(self, device: str | torch.device) -> TextToImage:
        """Move every part to `device`."""
        super().to(device)
        if self.text_encoder is not None:
            self.text_encoder.to(device)
        return self

    def encode_prompts(
        self, prompts: str | Sequence[str], *, negative: str | Sequence[str] = "", guidance: float = 7.5
    ) -> Conditioning:
        """Prompts, one text or a list, as the denoiser reads them; the empty prompt is allowed.

        `negative` is what the "uncond" half sees: one text for all, or one for each prompt. `guidance` is diffusers'
        `guidance_scale`; at 1 only the "cond" half is run and `negative` is not used, as in diffusers. Warns with one
        sentence where the tokenizer's limit cuts a prompt off. Raises `SparsightError` for no prompts, for what is no
        text, for other numbers of negative prompts, and for a guidance below 1.
        """
        if self.text_encoder is None or self.tokenizer is None:
            raise SparsightError(f"{self.name} has no text encoder and tokenizer: load it from a pipeline folder")
        return encode_prompts(self.tokenizer, self.text_encoder, prompts, negative, guidance)

    def cut_off(self, prompt: str) -> str:
        """The end of `prompt` that lies beyond the tokenizer's limit and is not read; "" if all of it is."""
        return cut_off(self.tokenizer, self.text_encoder, prompt)

    def unknown_words(self, prompt: str) -> list[str]:
        """The words of `prompt` that the tokenizer does not know; one that spells words out, as BPE does, knows all."""
        return unknown_words(self.tokenizer, prompt)

    def sites(self) -> dict[str, SiteInfo]:
        """Every site with its size, from a pass of the same U-Net without weights: it costs no time and no memory."""
        if not self._info:
            with torch.device("meta"):
                twin = type(self.denoiser).from_config(self.denoiser.config)
                states = torch.zeros(1, *self.latent_shape)
                text = torch.zeros(1, 1, twin.config.cross_attention_dim)
                with torch.no_grad(), survey(twin, site_names(self.denoiser)) as found:
                    twin(states, torch.zeros(1), encoder_hidden_states=text)
            self._info = {name: found[name] for name in site_names(self.denoiser) if name in found}
        return self._info

    def _parts(self) -> list[Any]:
        return [part for part in (self.denoiser, self.text_encoder) if part is not None]

    def _conditional(self, x_t: Tensor, conditioning: Conditioning | None) -> Tensor | None:
        if conditioning is None:
            raise SparsightError(f"{self.name} is a text-to-image model: give it prompts, from encode_prompts([...])")
        return conditioning.conditional(len(x_t))

    def _denoise(self, x_t: Tensor, t: int | Tensor, conditioning: Conditioning | None) -> Tensor:
        assert conditioning is not None
        text = conditioning.rows(len(x_t)).to(x_t.device, self.dtype)
        halves = len(text) // len(x_t)
        stamps = torch.as_tensor(t, device=x_t.device).expand(len(x_t)).repeat(halves)
        with self._autocast():
            states = x_t.to(self.dtype).repeat(halves, 1, 1, 1)
            output = self.denoiser(states, stamps, encoder_hidden_states=text).sample
        return conditioning.guide(output.to(x_t.dtype))


def as_ddim(scheduler: Any) -> Any:
    """The DDIM scheduler of another one's config (PNDM, Euler, ...); a scheduler without alphas stays as it is."""
    from diffusers import DDIMScheduler

    if isinstance(scheduler, DDIMScheduler) or not hasattr(scheduler, "alphas_cumprod"):
        return scheduler
    # DDIM clips x0 unless told otherwise, which is meant for pixels; the latents of these models are never clipped
    own = {} if "clip_sample" in scheduler.config else {"clip_sample": False}
    return DDIMScheduler.from_config(scheduler.config, **own)
