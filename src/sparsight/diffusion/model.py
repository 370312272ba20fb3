"""One adapter for every unconditional diffusers pipeline: pixels, latents, sites, and (x0, eps) from x_t."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sparsight.diffusion import sites as _sites
from sparsight.diffusion.schedule import Prediction, Schedule, step_pairs
from sparsight.diffusion.sites import EditRecord, Intervention, Step, Tape
from sparsight.errors import SparsightError, unknown


@dataclass(frozen=True)
class SiteInfo:
    """What one site looks like: `channels` C and `grid` (h, w), so that its tokens are (B, h w, C)."""

    name: str
    channels: int
    grid: tuple[int, int]


class DiffusionModel:
    """A frozen denoiser with its schedule and, for latent models, its autoencoder.

    Nothing above this class knows which pipeline family it came from. Text-to-image families will add
    conditioning to `predict`; the loop and the sites stay as they are.
    """

    FAMILIES = ("DDPMPipeline", "DDIMPipeline", "LDMPipeline")

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
        pipeline = _load_pipeline(str(name_or_path), options)
        return cls.from_pipeline(pipeline, name=str(name_or_path)).to(device)

    @classmethod
    def from_pipeline(cls, pipeline: Any, name: str = "") -> DiffusionModel:
        """Wrap a diffusers pipeline that is already in memory; its weights are shared, not copied."""
        family = type(pipeline).__name__
        if family not in cls.FAMILIES:
            raise SparsightError(f"pipeline family {family} is not supported (valid: {', '.join(cls.FAMILIES)})")
        return cls(pipeline.unet, pipeline.scheduler, getattr(pipeline, "vqvae", None), name or family)

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
        """Sixteen hex digits over the denoiser's weights and schedule: artefacts remember it and refuse another model."""
        if self._hash is None:
            sha = hashlib.sha256(self.schedule.signals.numpy().tobytes() + self.schedule.kind.encode())
            for name, value in sorted(self.denoiser.state_dict().items()):
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
        encoded = self.autoencoder.encode(images)  # always fp32: it is done once, and everything rests on it
        latents = encoded.latents if hasattr(encoded, "latents") else encoded.latent_dist.mode()
        return latents * self._scaling

    def decode(self, latents: Tensor) -> Tensor:
        """Clean latents to images in about [-1, 1], differentiable; clamping is left to whoever writes pixels."""
        if self.autoencoder is None:
            return latents
        with self._autocast():
            return self.autoencoder.decode(latents / self._scaling).sample.to(latents.dtype)

    def _autocast(self) -> torch.autocast:
        """`precision` "bf16" runs the networks under autocast; states and schedules stay as they are."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")

    @property
    def _scaling(self) -> float:
        return float(self.autoencoder.config.get("scaling_factor", 1.0)) if self.autoencoder is not None else 1.0

    def predict(self, x_t: Tensor, t: int | Tensor, *, index: int = 0, steps: int = 1) -> Prediction:
        """(x0, eps) at `x_t` (B, c, h, w); `t` is one timestep or a tensor (B,). `index` of `steps` is told to interventions."""
        self._step = Step(t=t, index=index, steps=steps)
        output = self._denoise(x_t, t)
        if output.shape[1] == 2 * x_t.shape[1]:  # models with a learned variance say it in extra channels
            output = output[:, : x_t.shape[1]]
        return self.schedule.convert(output.to(x_t.dtype), x_t, t)

    def _denoise(self, x_t: Tensor, t: int | Tensor) -> Tensor:
        stamps = torch.as_tensor(t, device=x_t.device).expand(len(x_t))
        with self._autocast():
            return self.denoiser(x_t, stamps).sample

    def read(self, x_t: Tensor, t: int | Tensor, sites: Iterable[str]) -> Tape:
        """The tokens (B, N, C) of `sites` at `x_t` (B, c, h, w), without a prediction: nothing after the last site is run.

        `t` is one timestep or a tensor (B,). The tokens are those that `capture` records during `predict`. Raises
        `SparsightError` for a site that does not exist.
        """
        self._step = Step(t=t)
        with _sites.capture_once(self.denoiser, sites) as tape:
            self._denoise(x_t, t)
        return tape

    def pairs(self, steps: int) -> list[tuple[int, int]]:
        """The (t, next t) pairs of a run of `steps` steps, noisy to clean, as the pipeline's scheduler walks them."""
        return step_pairs(self.scheduler, steps)

    def sites(self) -> dict[str, SiteInfo]:
        """Every site with its size, found by one forward pass on zeros."""
        if not self._info:
            names = _sites.site_names(self.denoiser)
            with torch.no_grad(), self.capture(names) as tape:
                self.predict(torch.zeros(1, *self.latent_shape, device=self.device), 0)
            self._info = {n: SiteInfo(n, tape[n].shape[-1], tape.grids[n]) for n in names if n in tape.tokens}
        return self._info

    def site(self, name: str) -> SiteInfo:
        """One site (`mid_block`, or `mid_block:update`); raises `SparsightError` with the nearest names."""
        path, _ = _sites.split_site(name)
        if path not in self.sites():
            raise unknown("site", path, self.sites())
        return self.sites()[path]

    def capture(self, sites: Iterable[str]) -> Any:
        """`with model.capture(["mid_block"]) as tape:` then `tape["mid_block"]` is the last call's tokens."""
        return _sites.capture(self.denoiser, sites)

    @contextmanager
    def edit(self, interventions: Sequence[Intervention]) -> Iterator[EditRecord]:
        """`with model.edit([...]) as record:` applies them at each `predict`; `record` keeps their strength."""
        with _sites.edit(self.denoiser, interventions, lambda: self._step) as record:
            yield record

    def __repr__(self) -> str:
        return f"DiffusionModel({self.name!r}, x_t {self.latent_shape}, {self.schedule.kind})"


def _world_folder(name: str) -> Path | None:
    """`worlds/NAME` stands for the model folder that ships in this package."""
    folder = Path(str(files("sparsight"))) / name / "weights" / "model"
    return folder if name.startswith("worlds/") and folder.is_dir() else None


def _load_pipeline(name: str, options: dict[str, Any]) -> Any:
    from diffusers import DiffusionPipeline
    from diffusers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    folder = _world_folder(name)
    if folder is None and name.startswith("worlds/"):
        worlds = sorted(p.parent.parent.name for p in Path(str(files("sparsight"))).glob("worlds/*/weights/model"))
        raise unknown("world", name, [f"worlds/{w}" for w in worlds])
    try:
        return DiffusionPipeline.from_pretrained(str(folder or name), **{"use_safetensors": True, **options})
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise SparsightError(f"cannot load a diffusers pipeline from {name!r}: {reason}") from error


__all__ = ["DiffusionModel", "EditRecord", "SiteInfo", "Tape"]
