"""The adapter of a diffusers pipeline: pixels, latents, sites, and (x0, eps) from x_t."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sparsight.diffusion import hooks
from sparsight.diffusion.conditioning import Conditioning
from sparsight.diffusion.load import load_pipeline, require_family
from sparsight.diffusion.schedule import Prediction, Schedule, step_pairs
from sparsight.diffusion.sites import EditRecord, Intervention, Step, Tape, site_names, split_site
from sparsight.diffusion.survey import SiteInfo, survey
from sparsight.errors import SparsightError, unknown


class DiffusionModel:
    """A frozen denoiser with its schedule and, for latent models, its autoencoder: the unconditional families.

    Nothing above this class knows which pipeline family it came from. Families with prompts are `TextToImage`; they
    differ in what `predict` has to be told, the loop and the sites are the same.
    """

    FAMILIES = ("DDPMPipeline", "DDIMPipeline", "LDMPipeline", "StableDiffusionPipeline")

    def __init__(self, denoiser: Any, scheduler: Any, autoencoder: Any = None, name: str = "") -> None:
        self.denoiser, self.scheduler, self.autoencoder = denoiser, scheduler, autoencoder
        self.name, self.precision = name, "fp32"
        self.schedule = Schedule.of(scheduler)
        for part in (denoiser, autoencoder):
            if part is not None:
                part.eval().requires_grad_(False)
        self._step = Step(t=0)
        self._info: dict[str, SiteInfo] = {}
        self._hash: str | None = None

    @classmethod
    def load(cls, name_or_path: str | Path, *, device: str | torch.device = "cpu", **options: Any) -> DiffusionModel:
        """Load a pipeline from a world (`worlds/avatars`), a local folder, or a Hub id such as `google/ddpm-celebahq-256`.

        `options` go to `DiffusionPipeline.from_pretrained`. Raises `SparsightError` where nothing can be
        loaded under that name or its family is not supported.
        """
        pipeline = load_pipeline(str(name_or_path), cls.FAMILIES, options)
        return cls.from_pipeline(pipeline, name=str(name_or_path)).to(device)

    @classmethod
    def from_pipeline(cls, pipeline: Any, name: str = "") -> DiffusionModel:
        """Wrap a diffusers pipeline that is already in memory; its weights are shared, not copied."""
        from sparsight.diffusion.text_to_image import TextToImage

        family = type(pipeline).__name__
        require_family(family, cls.FAMILIES)
        if family == "StableDiffusionPipeline":
            return TextToImage.of(pipeline, name or family)
        return DiffusionModel(pipeline.unet, pipeline.scheduler, getattr(pipeline, "vqvae", None), name or family)

    def to(self, device: str | torch.device) -> DiffusionModel:
        """Move every part to `device`."""
        self.denoiser.to(device)
        if self.autoencoder is not None:
            self.autoencoder.to(device)
        return self

    @property
    def device(self) -> torch.device:
        """Where the denoiser's weights are."""
        return next(self.denoiser.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The type of the denoiser's weights."""
        return next(self.denoiser.parameters()).dtype

    @property
    def takes_prompts(self) -> bool:
        """Whether `predict`, `read` and the loop need a `Conditioning`."""
        return False

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of x_t."""
        size, config = self.denoiser.config.sample_size, self.denoiser.config
        height, width = (size, size) if isinstance(size, int) else size
        return config.in_channels, height, width

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of the images in pixels."""
        factor = 1
        if self.autoencoder is not None:
            factor = 2 ** (len(self.autoencoder.config.block_out_channels) - 1)
        return self.latent_shape[1] * factor, self.latent_shape[2] * factor

    def fingerprint(self) -> str:
        """Sixteen hex digits over the schedule and the weights that activations depend on: artefacts refuse another model."""
        if self._hash is None:
            sha = hashlib.sha256(self.schedule.signals.numpy().tobytes() + self.schedule.kind.encode())
            for part in self._parts():
                for name, value in sorted(part.state_dict().items()):
                    sha.update(name.encode() + value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
            self._hash = sha.hexdigest()[:16]
        return self._hash

    def encode(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1] to clean latents (B, c, h, w); the identity for pixel models."""
        if tuple(images.shape[-2:]) != self.image_size:
            raise SparsightError(
                f"images are {images.shape[-1]}x{images.shape[-2]} pixels, but {self.name} takes "
                f"{self.image_size[1]}x{self.image_size[0]}"
            )
        if self.autoencoder is None:
            return images
        # never under autocast: it is done once, and everything rests on it
        encoded = self.autoencoder.encode(images.to(self._autoencoder_dtype))
        latents = encoded.latents if hasattr(encoded, "latents") else encoded.latent_dist.mode()
        return latents.to(images.dtype) * self._scaling

    def decode(self, latents: Tensor) -> Tensor:
        """Clean latents to images in about [-1, 1], differentiable; clamping is left to whoever writes pixels."""
        if self.autoencoder is None:
            return latents
        with self._autocast():
            scaled = (latents / self._scaling).to(self._autoencoder_dtype)
            return self.autoencoder.decode(scaled).sample.to(latents.dtype)

    def _autocast(self) -> AbstractContextManager[Any]:
        """`precision` "bf16" runs the networks under autocast; states and schedules stay as they are."""
        return torch.autocast(self.device.type, torch.bfloat16) if self.precision == "bf16" else nullcontext()

    @property
    def _scaling(self) -> float:
        return float(self.autoencoder.config.get("scaling_factor", 1.0)) if self.autoencoder is not None else 1.0

    @property
    def _autoencoder_dtype(self) -> torch.dtype:
        return next(self.autoencoder.parameters()).dtype

    def encode_prompts(
        self, prompts: str | Sequence[str], *, negative: str | Sequence[str] = "", guidance: float = 7.5
    ) -> Conditioning:
        """Prompts as the denoiser reads them. Raises `SparsightError`: this family has none; see `TextToImage`."""
        raise SparsightError(f"{self.name} takes no prompts: it is not a text-to-image model")

    def predict(
        self, x_t: Tensor, t: int | Tensor, conditioning: Conditioning | None = None, *, index: int = 0, steps: int = 1
    ) -> Prediction:
        """(x0, eps) at `x_t` (B, c, h, w); `t` is one timestep or a tensor (B,). `index` of `steps` is told to interventions.

        `conditioning` is what a text-to-image model is told, one prompt or B; the prediction is the guided one. Raises
        `SparsightError` where it is missing, or given to a model without prompts.
        """
        self._step = Step(t=t, index=index, steps=steps, conditional=self._conditional(x_t, conditioning))
        output = self._denoise(x_t, t, conditioning)
        if output.shape[1] == 2 * x_t.shape[1]:  # models with a learned variance say it in extra channels
            output = output[:, : x_t.shape[1]]
        return self.schedule.convert(output.to(x_t.dtype), x_t, t)

    def _conditional(self, x_t: Tensor, conditioning: Conditioning | None) -> Tensor | None:
        """The rows of the pass that see a prompt, None for a model without prompts."""
        if conditioning is not None:
            raise SparsightError(f"{self.name} takes no prompts: it is not a text-to-image model")
        return None

    def _denoise(self, x_t: Tensor, t: int | Tensor, conditioning: Conditioning | None) -> Tensor:
        stamps = torch.as_tensor(t, device=x_t.device).expand(len(x_t))
        with self._autocast():
            return self.denoiser(x_t, stamps).sample

    def read(
        self, x_t: Tensor, t: int | Tensor, sites: Iterable[str], conditioning: Conditioning | None = None
    ) -> Tape:
        """The tokens (B, N, C) of `sites` at `x_t` (B, c, h, w), without a prediction: nothing after the last site is run.

        `t` is one timestep or a tensor (B,). The tokens are those that `capture` records during `predict`. Raises
        `SparsightError` for a site that does not exist.
        """
        self._step = Step(t=t, conditional=self._conditional(x_t, conditioning))
        with hooks.capture_once(self.denoiser, sites, lambda: self._step) as tape:
            self._denoise(x_t, t, conditioning)
        return tape

    def _parts(self) -> list[Any]:
        """The networks that activations depend on."""
        return [self.denoiser]

    def pairs(self, steps: int) -> list[tuple[int, int]]:
        """The (t, next t) pairs of a run of `steps` steps, noisy to clean, as the pipeline's scheduler walks them."""
        return step_pairs(self.scheduler, steps)

    def sites(self) -> dict[str, SiteInfo]:
        """Every site with its size, found by one forward pass on zeros."""
        if not self._info:
            names = site_names(self.denoiser)
            with torch.no_grad(), survey(self.denoiser, names) as found:
                self.predict(torch.zeros(1, *self.latent_shape, device=self.device), 0)
            self._info = {name: found[name] for name in names if name in found}
        return self._info

    def site(self, name: str) -> SiteInfo:
        """One site (`mid_block`, or `mid_block:update`); raises `SparsightError` with the nearest names."""
        path, _ = split_site(name)
        if path not in self.sites():
            raise unknown("site", path, self.sites())
        return self.sites()[path]

    def capture(self, sites: Iterable[str], at: Collection[int] | None = None) -> Any:
        """`with model.capture(["mid_block"]) as tape:` then `tape["mid_block"]` is the last call's tokens.

        With timesteps `at` only calls at those are recorded, and `tape.past[t]` keeps each of them.
        """
        return hooks.capture(self.denoiser, sites, lambda: self._step, at)

    @contextmanager
    def edit(self, interventions: Sequence[Intervention]) -> Iterator[EditRecord]:
        """`with model.edit([...]) as record:` applies them at each `predict`; `record` keeps their strength."""
        with hooks.edit(self.denoiser, interventions, lambda: self._step) as record:
            yield record

    def __repr__(self) -> str:
        return f"DiffusionModel({self.name!r}, x_t {self.latent_shape}, {self.schedule.kind})"


__all__ = ["DiffusionModel", "EditRecord", "SiteInfo", "Tape"]
