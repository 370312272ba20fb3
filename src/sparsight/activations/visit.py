"""Taking the model past noised images: one pass through a timestep, heard by every stream that wants it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sparsight.activations.config import HarvestConfig, PromptStream
from sparsight.activations.encoding import generator
from sparsight.diffusion.conditioning import Conditioning
from sparsight.diffusion.model import DiffusionModel
from sparsight.diffusion.sampling import Loop, walk


class Start(NamedTuple):
    """Where a pass begins: clean latents of images, or the noise of prompts and what the model is told."""

    states: Tensor
    conditioning: Conditioning | None = None


class Wanted(NamedTuple):
    """What one stream wants of a pass: a site, at these timesteps (ascending), of one half of guidance ("": all rows)."""

    site: str
    stamps: tuple[int, ...]
    half: str = ""


class Seen(NamedTuple):
    """One state x_t (B, c, h, w) that the model has seen, and the tokens (B, N, C) of every stream that wanted them."""

    t: int
    x_t: Tensor
    tokens: dict[str, Tensor]


def start_noise(model: DiffusionModel, seed: int, numbers: Sequence[int]) -> Tensor:
    """The noise x_T (B, c, h, w) of the images of these numbers, fp32: a function of (seed, number) and nothing else."""
    drawn = [torch.randn(model.latent_shape, generator=generator(seed, number)) for number in numbers]
    return torch.stack(drawn).to(model.device)


def prepare(model: DiffusionModel, source: Any, numbers: Sequence[int], config: HarvestConfig) -> Start:
    """Read the images or prompts of these numbers and make them ready for `visit`."""
    if not isinstance(config, PromptStream):
        return Start(model.encode(source.batch(numbers).to(model.device)))
    told = model.encode_prompts(source.batch(numbers), negative=config.negative, guidance=config.guidance)
    return Start(start_noise(model, config.seed, numbers), told)


def visit(
    model: DiffusionModel, begin: Start, config: HarvestConfig, wanted: Mapping[str, Wanted], unit: int,
    finish: Callable[[Tensor], None] | None = None,
) -> Iterator[Seen]:  # fmt: skip
    """Take a batch from `begin` to every timestep that any stream wants; each stream hears its own.

    From images the timesteps come ascending, from prompts descending. `finish` is called with the clean latents that a
    sampling ends in; without it the run stops after the last timestep that is wanted. Inversion and sampling share one
    path among all streams. Noising shares a pass among streams of equal timesteps, each stage with its own noise from
    (config.seed, unit): a stream is the same alone and in company, but stages that overlap without being equal cost a
    pass each.
    """
    latents = begin.states
    if config.method == "sampling":
        yield from _sampled(model, begin, config, wanted, finish)
        return
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


def _sampled(
    model: DiffusionModel, begin: Start, config: HarvestConfig, wanted: Mapping[str, Wanted],
    finish: Callable[[Tensor], None] | None,
) -> Iterator[Seen]:  # fmt: skip
    """Along the sampling of prompts; at the last timestep that is wanted, nothing after the last site is run."""
    path, x = [t for t, _ in model.pairs(config.steps)], begin.states
    stamps = {t for want in wanted.values() for t in want.stamps}
    stop = len(path) if finish is not None else max(path.index(t) for t in stamps)
    with model.capture({want.site for want in wanted.values()}, at=stamps) as tape:
        run = walk(model, x, Loop(steps=config.steps, mode="plain"), conditioning=begin.conditioning)
        for moment in islice(run, stop):
            if moment.t in stamps:
                here = tape.past.pop(moment.t)
                yield Seen(moment.t, moment.x_t, {name: here.half(w.site, w.half) for name, w in _at(wanted, moment.t)})
            x = moment.x_next
    if finish is not None:
        finish(x)
        return
    here = model.read(x, path[stop], {want.site for _, want in _at(wanted, path[stop])}, begin.conditioning)
    yield Seen(path[stop], x, {name: here.half(w.site, w.half) for name, w in _at(wanted, path[stop])})


def _at(wanted: Mapping[str, Wanted], t: int) -> list[tuple[str, Wanted]]:
    return [(name, want) for name, want in wanted.items() if t in want.stamps]


def _read(model: DiffusionModel, x_t: Tensor, t: int, sites: Mapping[str, str]) -> Seen:
    tape = model.read(x_t, t, sites.values())
    return Seen(t, x_t, {name: tape[site] for name, site in sites.items()})
