"""Run the model over images or prompts and keep what its sites said: the first arrow of the way of the data.

One pass feeds any number of streams: a stream is a site, a stage (a range of timesteps) and a conditioning.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from sparsight.activations.config import HarvestConfig, PromptStream, Stream, grid
from sparsight.activations.parts import PartWriter
from sparsight.activations.spec import StoreSpec
from sparsight.activations.store import Store
from sparsight.activations.visit import Wanted, prepare, visit
from sparsight.activations.writer import StoreWriter, Unit
from sparsight.diffusion.model import DiffusionModel
from sparsight.diffusion.sites import split_site
from sparsight.errors import SparsightError
from sparsight.files import digest
from sparsight.images import ImageSource, image_path, write_image
from sparsight.parallel import Part
from sparsight.prompts import PromptSource

Progress = Callable[[int, int], None]
# What one pass can do in one way only; the last two are for prompts.
SHARED = ("steps", "method", "refine", "batch_size", "seed", "guidance", "negative")


def harvest(
    model: DiffusionModel, images: ImageSource | PromptSource, folder: Path | str, config: HarvestConfig | None = None, *,
    numbers: Sequence[int] | None = None, progress: Progress | None = None,
) -> Store:  # fmt: skip
    """Write the site's tokens (and x_t) of every image and timestep to a store; goes on where a killed harvest stopped.

    One shard is one batch of images, so memory is bounded by a batch. `numbers` chooses images (default: all);
    they become the store's image ids. `progress(done, total)` counts images. `folder` is a path or an fsspec URI.
    """
    return harvest_streams(model, images, {folder: config or HarvestConfig()}, numbers=numbers, progress=progress)[0]


def harvest_streams(
    model: DiffusionModel, images: ImageSource | PromptSource, streams: Mapping[Path | str, HarvestConfig], *,
    numbers: Sequence[int] | None = None, memory_mb: float | None = None, progress: Progress | None = None,
    images_to: Path | str | None = None,
) -> list[Store]:  # fmt: skip
    """Harvest several streams, {folder: `Stream` or `HarvestConfig`}, from one pass of the model; a store each, in order.

    With `PromptStream`s the source is one of prompts, and `images_to` keeps the generated images as PNGs in a folder,
    which `images.Folder` reads back in the order of their numbers.

    Every store is the one that `harvest` would write alone. Streams must agree in steps, method, refine, batch_size,
    seed, guidance and negative prompt, for they share the pass. `memory_mb` bounds the tokens and states of one batch
    of images, which are held until it is written; a batch that would need more raises a `SparsightError` that names the
    largest batch size.
    """
    numbers = list(range(len(images))) if numbers is None else list(numbers)
    specs = _checked_specs(model, images, streams, memory_mb, images_to)
    writers = {str(folder): StoreWriter(folder, specs[str(folder)]) for folder in streams}
    _write_units(writers, model, images, streams, numbers, Part(0, 1), progress, images_to)
    return [writer.finish() for writer in writers.values()]


def harvest_part(
    model: DiffusionModel, images: ImageSource | PromptSource, streams: Mapping[Path | str, HarvestConfig], part: Part, *,
    numbers: Sequence[int] | None = None, memory_mb: float | None = None, progress: Progress | None = None,
    images_to: Path | str | None = None,
) -> bool:  # fmt: skip
    """The share of one of several processes in `harvest_streams`: every `part.size`-th shard, from number `part.rank` on.

    Whether all stores are finished: that is so for the process that finishes last, which none of the others waits for.
    The stores are those that one process would write. All must be given the same arguments but for `part` (and
    `progress`, which counts the images of this part), and see the same folders. A part that was killed is called again.
    """
    numbers = list(range(len(images))) if numbers is None else list(numbers)
    specs, size = _checked_specs(model, images, streams, memory_mb, images_to), _shared(streams).batch_size
    plan, units = digest([size, numbers]), -(-len(numbers) // size)
    writers = {str(folder): PartWriter(folder, specs[str(folder)], units, plan) for folder in streams}
    _write_units(writers, model, images, streams, numbers, part, progress, images_to)
    return all([writer.finish_if_whole() for writer in writers.values()])


def _checked_specs(
    model: DiffusionModel,
    images: ImageSource | PromptSource,
    streams: Mapping[Path | str, HarvestConfig],
    memory_mb: float | None,
    images_to: Path | str | None,
) -> dict[str, StoreSpec]:
    """What each stream says of itself. Whatever cannot be harvested is refused here, before anything is written."""
    config = _shared(streams)
    specs = {str(folder): stream_spec(model, images, stream) for folder, stream in streams.items()}
    if images_to is not None and not isinstance(config, PromptStream):
        raise SparsightError("images_to keeps generated images: it needs streams from prompts (PromptStream)")
    _check_memory(model, specs, streams, memory_mb)
    return specs


def _write_units(
    writers: Mapping[str, StoreWriter], model: DiffusionModel, images: ImageSource | PromptSource,
    streams: Mapping[Path | str, HarvestConfig], numbers: list[int], part: Part, progress: Progress | None,
    images_to: Path | str | None,
) -> None:  # fmt: skip
    """Write those units of a part that are missing, and the images that they end in."""
    config, done = _shared(streams), 0
    keeps = {str(folder): getattr(stream, "keep_x_t", True) for folder, stream in streams.items()}
    units = list(enumerate(numbers[at : at + config.batch_size] for at in range(0, len(numbers), config.batch_size)))
    mine = units[part.rank :: part.size]
    for unit, chosen in mine:
        missing = {name: writer for name, writer in writers.items() if not writer.has(unit)}
        paths = {} if images_to is None else {number: image_path(Path(images_to), number) for number in chosen}
        if missing or not all(path.exists() for path in paths.values()):
            _write_unit(missing, keeps, unit, model, images, chosen, config, paths)
        done += len(chosen)
        if progress is not None:
            progress(done, sum(len(chosen) for _, chosen in mine))


def _shared(streams: Mapping[Path | str, HarvestConfig]) -> HarvestConfig:
    if not streams:
        raise SparsightError("a harvest needs at least one stream")
    first, *others = streams.values()
    for other in others:
        for name in SHARED:
            one, two = getattr(first, name, None), getattr(other, name, None)
            if one != two:
                raise SparsightError(f"streams of one pass must share {name}, but here are {one!r} and {two!r}")
    return first


def stream_spec(model: DiffusionModel, images: ImageSource | PromptSource, config: HarvestConfig) -> StoreSpec:
    """What a harvest with this config says of itself. Raises `SparsightError` where the model has no such stream."""
    config.require(model)
    info = model.site(config.site)
    kept = getattr(config, "positions", None)
    return StoreSpec(
        site=config.site, mode=split_site(config.site)[1], channels=info.channels, grid=info.grid, model=model.name,
        model_hash=model.fingerprint(), dtype=config.dtype, timesteps=tuple(grid(model, config)),
        source=config.describe(images.name),
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
    source: ImageSource | PromptSource, numbers: list[int], config: HarvestConfig, paths: Mapping[int, Path],
) -> None:  # fmt: skip
    begin, image = prepare(model, source, numbers, config), torch.tensor(numbers)
    wanted = {n: Wanted(w.spec.site, w.spec.timesteps, w.spec.conditioning) for n, w in writers.items()}
    rows = {name: Unit(writer.spec, len(numbers) * len(wanted[name].stamps)) for name, writer in writers.items()}

    def keep(latents: Tensor) -> None:
        for path, picture in zip(paths.values(), model.decode(latents), strict=True):
            write_image(path, picture)

    for t, x_t, tokens in visit(model, begin, config, wanted, unit, keep if paths else None):
        for name, said in tokens.items():
            extra = {"x_t": x_t.float()} if keeps[name] else {}
            rows[name].add(said, image, torch.full_like(image, t), **extra)
    for name, writer in writers.items():
        writer.publish(unit, rows.pop(name))


__all__ = ["HarvestConfig", "PromptStream", "Stream", "grid", "harvest", "harvest_part", "harvest_streams"]
