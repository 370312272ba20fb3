"""Run the model over images and keep what a site said: the first arrow of the way of the data."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from sparsight.activations.store import Store, StoreSpec, StoreWriter
from sparsight.diffusion.model import DiffusionModel
from sparsight.diffusion.sampling import Loop, walk
from sparsight.diffusion.sites import split_site
from sparsight.errors import SparsightError, unknown
from sparsight.images import ImageSource

METHODS = ("inversion", "noising")


@dataclass(frozen=True)
class HarvestConfig:
    """What to harvest. `method` "inversion" follows each image up DDIM's own path, "noising" adds fresh noise.

    Timesteps are those of a `steps`-step run that lie in `low` ... `high` (CASL: 500 to 999).
    """

    site: str = "mid_block"
    steps: int = 100
    low: int = 500
    high: int = 999
    method: str = "inversion"
    refine: int = 0
    dtype: str = "fp16"
    batch_size: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise unknown("harvest method", self.method, METHODS)
        if self.low > self.high:
            raise SparsightError(f"the harvest's timesteps run from {self.low} to {self.high}: nothing lies between")
        if self.batch_size < 1:
            raise SparsightError(f"the harvest's batch size is {self.batch_size}, but must be at least 1")


def harvest(
    model: DiffusionModel, images: ImageSource, folder: Path, config: HarvestConfig | None = None, *,
    numbers: Sequence[int] | None = None, progress: Callable[[int, int], None] | None = None,
) -> Store:  # fmt: skip
    """Write the site's tokens (and x_t) of every image and timestep to a store; goes on where a killed harvest stopped.

    One shard is one batch of images, so memory is bounded by a batch. `numbers` chooses images (default: all);
    they become the store's image ids. `progress(done, total)` counts images.
    """
    config = config or HarvestConfig()
    numbers = list(range(len(images))) if numbers is None else list(numbers)
    stamps = grid(model, config)
    writer = StoreWriter(Path(folder), _spec(model, images, config, stamps))
    for unit, start in enumerate(range(0, len(numbers), config.batch_size)):
        chosen = numbers[start : start + config.batch_size]
        if not writer.has(unit):
            _write_unit(writer, unit, model, images.batch(chosen), chosen, stamps, config)
        if progress is not None:
            progress(start + len(chosen), len(numbers))
    return writer.finish()


def grid(model: DiffusionModel, config: HarvestConfig) -> list[int]:
    """The timesteps that are harvested, from clean to noisy."""
    stamps = sorted(t for t, _ in model.pairs(config.steps) if config.low <= t <= config.high)
    if not stamps:
        raise SparsightError(f"no timestep of a {config.steps}-step run lies between {config.low} and {config.high}")
    return stamps


def _spec(model: DiffusionModel, images: ImageSource, config: HarvestConfig, stamps: list[int]) -> StoreSpec:
    info = model.site(config.site)
    source = f"{images.name}, {config.method}, {config.steps} steps"
    return StoreSpec(
        site=config.site, mode=split_site(config.site)[1], channels=info.channels, grid=info.grid, model=model.name,
        model_hash=model.fingerprint(), dtype=config.dtype, timesteps=tuple(stamps), source=source,
    )  # fmt: skip


@torch.no_grad()
def _write_unit(writer: StoreWriter, unit: int, model: DiffusionModel, images: Tensor, numbers: Sequence[int],
                stamps: list[int], config: HarvestConfig) -> None:  # fmt: skip
    latents = model.encode(images.to(model.device))
    walked = _inverted if config.method == "inversion" else _noised
    tokens, noisy = [], []
    with model.capture([config.site]) as tape:
        for _, x_t in walked(model, latents, config, stamps, unit):
            tokens.append(tape[config.site].cpu())
            noisy.append(x_t.cpu().float())
    count = len(numbers)
    writer.write(
        unit, torch.cat(tokens), torch.tensor(list(numbers)).repeat(len(stamps)),
        torch.tensor(stamps).repeat_interleave(count), x_t=torch.cat(noisy),
    )  # fmt: skip


def _inverted(
    model: DiffusionModel, latents: Tensor, config: HarvestConfig, stamps: list[int], _unit: int
) -> Iterator[tuple[int, Tensor]]:
    """(t, x_t) along DDIM inversion, each yielded right after the model has seen it."""
    top = latents
    for moment in walk(model, latents, Loop(steps=config.steps, refine=config.refine), invert=True):
        if moment.t in stamps:
            if config.refine:  # the last call was at the far end of the step
                model.predict(moment.x_t, moment.t)
            yield moment.t, moment.x_t
        top = moment.x_next
        if moment.t_next == stamps[-1]:
            break
    model.predict(top, stamps[-1])
    yield stamps[-1], top


def _noised(
    model: DiffusionModel, latents: Tensor, config: HarvestConfig, stamps: list[int], unit: int
) -> Iterator[tuple[int, Tensor]]:
    generator = torch.Generator().manual_seed(config.seed * 1_000_003 + unit)
    for t in stamps:
        noise = torch.randn(latents.shape, generator=generator).to(latents)
        x_t = model.schedule.add_noise(latents, noise, t)
        model.predict(x_t, t)
        yield t, x_t
