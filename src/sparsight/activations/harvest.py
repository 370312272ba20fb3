"""Run the model over images and keep what its sites said: the first arrow of the way of the data.

One pass feeds any number of streams: a stream is a site, a stage (a range of timesteps) and a conditioning.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import torch

from sparsight.activations.parts import PartWriter
from sparsight.activations.spec import StoreSpec
from sparsight.activations.store import Store
from sparsight.activations.visit import HarvestConfig, Wanted, grid, visit
from sparsight.activations.writer import StoreWriter, Unit
from sparsight.diffusion.model import DiffusionModel
from sparsight.diffusion.sites import split_site
from sparsight.errors import SparsightError
from sparsight.files import digest
from sparsight.images import ImageSource
from sparsight.parallel import Part

Progress = Callable[[int, int], None]
SHARED = ("steps", "method", "refine", "batch_size", "seed")  # what one pass can do in one way only


@dataclass(frozen=True)
class Stream(HarvestConfig):
    """A harvest's choices, and what else one stream of a pass may choose.

    `positions` keeps that many positions of each map, chosen for each image by `seed` (None: all). `keep_x_t` stores
    the states x_t too; `align` needs them, training does not. `conditioning` is for models with a prompt; the families
    supported so far have none, so that it must be "".
    """

    positions: int | None = None
    keep_x_t: bool = True
    conditioning: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.conditioning:
            raise SparsightError(f"conditioning {self.conditioning!r} needs a text-to-image model (valid here: '')")


def harvest(
    model: DiffusionModel, images: ImageSource, folder: Path | str, config: HarvestConfig | None = None, *,
    numbers: Sequence[int] | None = None, progress: Progress | None = None,
) -> Store:  # fmt: skip
    """Write the site's tokens (and x_t) of every image and timestep to a store; goes on where a killed harvest stopped.

    One shard is one batch of images, so memory is bounded by a batch. `numbers` chooses images (default: all);
    they become the store's image ids. `progress(done, total)` counts images. `folder` is a path or an fsspec URI.
    """
    return harvest_streams(model, images, {folder: config or HarvestConfig()}, numbers=numbers, progress=progress)[0]


def harvest_streams(
    model: DiffusionModel, images: ImageSource, streams: Mapping[Path | str, HarvestConfig], *,
    numbers: Sequence[int] | None = None, memory_mb: float | None = None, progress: Progress | None = None,
) -> list[Store]:  # fmt: skip
    """Harvest several streams, {folder: `Stream` or `HarvestConfig`}, from one pass of the model; a store each, in order.

    Every store is the one that `harvest` would write alone. Streams must agree in steps, method, refine, batch_size and
    seed, for they share the pass. `memory_mb` bounds the tokens and states of one batch of images, which are held until
    it is written; a batch that would need more raises a `SparsightError` that names the largest batch size.
    """
    numbers = list(range(len(images))) if numbers is None else list(numbers)
    specs = _checked_specs(model, images, streams, memory_mb)
    writers = {str(folder): StoreWriter(folder, specs[str(folder)]) for folder in streams}
    _write_units(writers, model, images, streams, numbers, Part(0, 1), progress)
    return [writer.finish() for writer in writers.values()]


def harvest_part(
    model: DiffusionModel, images: ImageSource, streams: Mapping[Path | str, HarvestConfig], part: Part, *,
    numbers: Sequence[int] | None = None, memory_mb: float | None = None, progress: Progress | None = None,
) -> bool:  # fmt: skip
    """The share of one of several processes in `harvest_streams`: every `part.size`-th shard, from number `part.rank` on.

    Whether all stores are finished: that is so for the process that finishes last, which none of the others waits for.
    The stores are those that one process would write. All must be given the same arguments but for `part` (and
    `progress`, which counts the images of this part), and see the same folders. A part that was killed is called again.
    """
    numbers = list(range(len(images))) if numbers is None else list(numbers)
    specs, size = _checked_specs(model, images, streams, memory_mb), _shared(streams).batch_size
    plan, units = digest([size, numbers]), -(-len(numbers) // size)
    writers = {str(folder): PartWriter(folder, specs[str(folder)], units, plan) for folder in streams}
    _write_units(writers, model, images, streams, numbers, part, progress)
    return all([writer.finish_if_whole() for writer in writers.values()])


def _checked_specs(
    model: DiffusionModel, images: ImageSource, streams: Mapping[Path | str, HarvestConfig], memory_mb: float | None
) -> dict[str, StoreSpec]:
    _shared(streams)
    specs = {str(folder): stream_spec(model, images, stream) for folder, stream in streams.items()}
    _check_memory(model, specs, streams, memory_mb)
    return specs


def _write_units(
    writers: Mapping[str, StoreWriter], model: DiffusionModel, images: ImageSource,
    streams: Mapping[Path | str, HarvestConfig], numbers: list[int], part: Part, progress: Progress | None,
) -> None:  # fmt: skip
    """Write those units of a part that are missing."""
    config, done = _shared(streams), 0
    keeps = {str(folder): getattr(stream, "keep_x_t", True) for folder, stream in streams.items()}
    units = list(enumerate(numbers[at : at + config.batch_size] for at in range(0, len(numbers), config.batch_size)))
    mine = units[part.rank :: part.size]
    for unit, chosen in mine:
        missing = {name: writer for name, writer in writers.items() if not writer.has(unit)}
        if missing:
            _write_unit(missing, keeps, unit, model, images, chosen, config)
        done += len(chosen)
        if progress is not None:
            progress(done, sum(len(chosen) for _, chosen in mine))


def _shared(streams: Mapping[Path | str, HarvestConfig]) -> HarvestConfig:
    if not streams:
        raise SparsightError("a harvest needs at least one stream")
    first, *others = streams.values()
    for other in others:
        for name in SHARED:
            one, two = getattr(first, name), getattr(other, name)
            if one != two:
                raise SparsightError(f"streams of one pass must share {name}, but here are {one!r} and {two!r}")
    return HarvestConfig(**{field.name: getattr(first, field.name) for field in fields(HarvestConfig)})


def stream_spec(model: DiffusionModel, images: ImageSource, config: HarvestConfig) -> StoreSpec:
    """What a harvest with this config says of itself."""
    info = model.site(config.site)
    kept = getattr(config, "positions", None)
    return StoreSpec(
        site=config.site, mode=split_site(config.site)[1], channels=info.channels, grid=info.grid, model=model.name,
        model_hash=model.fingerprint(), dtype=config.dtype, timesteps=tuple(grid(model, config)),
        source=f"{images.name}, {config.method}, {config.steps} steps",
        conditioning=getattr(config, "conditioning", ""), kept=kept, kept_seed=0 if kept is None else config.seed,
    )  # fmt: skip


def _check_memory(
    model: DiffusionModel, specs: Mapping[str, StoreSpec], streams: Mapping[Path | str, HarvestConfig],
    memory_mb: float | None,
) -> None:  # fmt: skip
    if memory_mb is None:
        return
    state = 4 * model.latent_shape[0] * model.latent_shape[1] * model.latent_shape[2]
    needs = [
        len(specs[str(folder)].timesteps) * (specs[str(folder)].map_bytes + state * getattr(stream, "keep_x_t", True))
        for folder, stream in streams.items()
    ]
    image = sum(needs) + max(needs)  # the file that is being written is in memory a second time
    most, asked = int(memory_mb * 2**20) // image, next(iter(streams.values())).batch_size
    if most < asked:
        raise SparsightError(
            f"a batch of {asked} images needs {asked * image / 2**20:.1f} MB for these streams, but memory_mb is "
            f"{memory_mb}: " + (f"use a batch_size of at most {most}" if most else "give more, or fewer streams")
        )


@torch.no_grad()
def _write_unit(
    writers: Mapping[str, StoreWriter], keeps: Mapping[str, bool], unit: int, model: DiffusionModel,
    images: ImageSource, numbers: list[int], config: HarvestConfig,
) -> None:  # fmt: skip
    latents, image = model.encode(images.batch(numbers).to(model.device)), torch.tensor(numbers)
    wanted = {name: Wanted(writer.spec.site, writer.spec.timesteps) for name, writer in writers.items()}
    rows = {name: Unit(writer.spec, len(numbers) * len(wanted[name].stamps)) for name, writer in writers.items()}
    for t, x_t, tokens in visit(model, latents, config, wanted, unit):
        for name, said in tokens.items():
            extra = {"x_t": x_t.float()} if keeps[name] else {}
            rows[name].add(said, image, torch.full_like(image, t), **extra)
    for name, writer in writers.items():
        writer.publish(unit, rows.pop(name))


__all__ = ["HarvestConfig", "Stream", "grid", "harvest", "harvest_part", "harvest_streams"]
