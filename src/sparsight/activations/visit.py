"""Taking the model past noised images: one pass through a timestep, heard by every stream that wants it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from sparsight.diffusion.model import DiffusionModel
from sparsight.diffusion.sampling import Loop, walk
from sparsight.errors import SparsightError, unknown

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


class Wanted(NamedTuple):
    """What one stream wants of a pass: a site, at these timesteps (ascending)."""

    site: str
    stamps: tuple[int, ...]


class Seen(NamedTuple):
    """One state x_t (B, c, h, w) that the model has seen, and the tokens (B, N, C) of every stream that wanted them."""

    t: int
    x_t: Tensor
    tokens: dict[str, Tensor]


def grid(model: DiffusionModel, config: HarvestConfig) -> list[int]:
    """The timesteps that are harvested, from clean to noisy."""
    stamps = sorted(t for t, _ in model.pairs(config.steps) if config.low <= t <= config.high)
    if not stamps:
        raise SparsightError(f"no timestep of a {config.steps}-step run lies between {config.low} and {config.high}")
    return stamps


def visit(
    model: DiffusionModel, latents: Tensor, config: HarvestConfig, wanted: Mapping[str, Wanted], unit: int
) -> Iterator[Seen]:
    """Take clean `latents` (B, c, h, w) to every timestep that any stream wants; each stream hears its own, ascending.

    Inversion shares one path among all streams. Noising shares a pass among streams of equal timesteps, each stage with
    its own noise from (config.seed, unit): a stream is the same alone and in company, but stages that overlap without
    being equal cost a pass each.
    """
    if config.method == "inversion":
        yield from _inverted(model, latents, config, wanted)
        return
    for stamps in dict.fromkeys(want.stamps for want in wanted.values()):
        sites = {name: want.site for name, want in wanted.items() if want.stamps == stamps}
        yield from _noised(model, latents, stamps, sites, config.seed * 1_000_003 + unit)


def _noised(
    model: DiffusionModel, latents: Tensor, stamps: tuple[int, ...], sites: Mapping[str, str], seed: int
) -> Iterator[Seen]:
    generator = torch.Generator().manual_seed(seed)
    for t in stamps:
        noise = torch.randn(latents.shape, generator=generator).to(latents)
        x_t = model.schedule.add_noise(latents, noise, t)
        yield _read(model, x_t, t, sites)


def _inverted(
    model: DiffusionModel, latents: Tensor, config: HarvestConfig, wanted: Mapping[str, Wanted]
) -> Iterator[Seen]:
    """Along DDIM inversion, each state right after the model has seen it; at the last one nothing is predicted."""
    last, top = max(want.stamps[-1] for want in wanted.values()), latents
    with model.capture(want.site for want in wanted.values()) as tape:
        for moment in walk(model, latents, Loop(steps=config.steps, refine=config.refine), invert=True):
            sites = {name: want.site for name, want in wanted.items() if moment.t in want.stamps}
            if sites and config.refine:  # the last call was at the far end of the step
                yield _read(model, moment.x_t, moment.t, sites)
            elif sites:
                yield Seen(moment.t, moment.x_t, {name: tape[site] for name, site in sites.items()})
            top = moment.x_next
            if moment.t_next == last:
                break
    yield _read(model, top, last, {name: want.site for name, want in wanted.items() if last in want.stamps})


def _read(model: DiffusionModel, x_t: Tensor, t: int, sites: Mapping[str, str]) -> Seen:
    tape = model.read(x_t, t, sites.values())
    return Seen(t, x_t, {name: tape[site] for name, site in sites.items()})
