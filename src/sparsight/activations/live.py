"""Stream mode: tokens that are made while they are read, with the interface of a store and nothing on disk.

An epoch cuts the timesteps of every image into small draws, shuffles the draws over all images, and groups them into
buffers. While one buffer is read, the next is made in the background.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from threading import Event, Lock
from typing import NamedTuple

import torch
from torch import Tensor

from sparsight.activations.encoding import generator
from sparsight.activations.harvest import HarvestConfig, stream_spec
from sparsight.activations.prefetch import ahead
from sparsight.activations.shuffle import Buffer, TokenBatch, shuffled_batches
from sparsight.activations.visit import Wanted, prepare, visit
from sparsight.activations.writer import Unit
from sparsight.diffusion.model import DiffusionModel
from sparsight.errors import SparsightError
from sparsight.files import digest
from sparsight.images import ImageSource
from sparsight.prompts import PromptSource

# Timesteps that an image gives to a buffer at a time: an image is drawn and encoded once for so many passes, and a
# buffer of M maps holds M / 4 images.
TOGETHER = 4


class Draw(NamedTuple):
    """An image, the timesteps at which it is wanted, and the epoch, which gives it its noise."""

    epoch: int
    image: int
    stamps: tuple[int, ...]


class LiveStore:
    """Tokens of one site, made by the model as they are read: what `Store` is to training, with no disk.

    `config` is a `HarvestConfig` or a `Stream`. "noising" draws fresh noise in every epoch, a function of (config.seed,
    epoch, image, t) alone; "inversion" follows each image's whole path, and a `PromptStream` samples each prompt's
    whole path anew, in every epoch from the same noise. `numbers` chooses images (default: all). With
    `prefetch` a thread runs the model while batches are being read: do not use the model elsewhere meanwhile.
    """

    def __init__(
        self, model: DiffusionModel, images: ImageSource | PromptSource, config: HarvestConfig | None = None, *,
        numbers: Sequence[int] | None = None, prefetch: bool = True,
    ) -> None:  # fmt: skip
        self.model, self.source, self.prefetch = model, images, prefetch
        self.config = config or HarvestConfig(method="noising")
        self.numbers = torch.tensor(list(range(len(images))) if numbers is None else list(numbers))
        if not len(self.numbers):
            raise SparsightError("a live store needs at least one image")
        self.spec = stream_spec(model, images, self.config)
        self.digest = digest(["live", self.spec.plain(), asdict(self.config), TOGETHER, self.numbers.tolist()])
        self.lock = Lock()  # two readers of one model would hear each other's passes

    def __len__(self) -> int:
        """Number of maps in an epoch."""
        return len(self.numbers) * len(self.spec.timesteps)

    def __str__(self) -> str:
        return f"live:{self.spec.model}/{self.spec.site}"

    @property
    def images(self) -> Tensor:
        """The ids of the images, sorted, int64."""
        return self.numbers.unique()

    def rows(self, images: Tensor | list[int] | None = None) -> Tensor:
        """The numbers of the maps of `images` (all if None) in an epoch, image by image, int64."""
        numbers = self.numbers.repeat_interleave(len(self.spec.timesteps))
        if images is None:
            return torch.arange(len(numbers))
        rows = torch.isin(numbers, torch.as_tensor(images)).nonzero().squeeze(1)
        if not len(rows):
            raise SparsightError(f"none of the chosen images is in {self}")
        return rows

    def batches(
        self,
        batch_size: int,
        *,
        seed: int,
        memory_mb: float = 256,
        start: int = 0,
        images: Tensor | list[int] | None = None,
    ) -> Iterator[TokenBatch]:
        """Endless token batches, shuffled over images, timesteps and positions, from batch number `start`.

        The stream is a function of the store, `batch_size`, `seed`, `memory_mb` and `images`: `start` is a reader's
        whole position, and going on from it makes one buffer again at most. Every epoch holds each (image, t,
        position) once. `memory_mb` bounds the tokens held; the model's own memory is that of `config.batch_size` maps.
        """
        numbers = self.numbers if images is None else self.numbers[torch.isin(self.numbers, torch.as_tensor(images))]
        if not len(numbers):
            raise SparsightError(f"none of the chosen images is in {self}")
        return shuffled_batches(lambda: LiveSource(self, memory_mb, numbers), batch_size, seed, memory_mb, start)


class LiveSource:
    """One reader of a live store: what each buffer of an epoch shall hold, and the model that fills it."""

    def __init__(self, live: LiveStore, memory_mb: float, numbers: Tensor) -> None:
        self.live, self.config, self.numbers = live, live.config, numbers
        self.stamps = torch.tensor(live.spec.timesteps)
        self.positions = live.spec.positions
        self.tokens = len(numbers) * len(self.stamps) * self.positions
        self.stop = Event()
        a_map = live.spec.map_bytes + 8 * self.positions + 16  # with its permutation and its ids
        budget = int(memory_mb * 2**20) // (a_map * (2 if live.prefetch else 1))
        self.whole = self.config.method != "noising"  # the path of an image is walked once for all its timesteps
        self.together = len(self.stamps) if self.whole else min(TOGETHER, len(self.stamps))
        self.draws = budget // self.together  # in a buffer
        if self.draws < 1:
            least = self.together * a_map * (2 if live.prefetch else 1) / 2**20
            raise SparsightError(f"memory_mb is {memory_mb}, but one image's draw at {live} needs {least:.2f}")

    def plans(self, seed: int, epoch: int) -> list[list[Draw]]:
        """The draws of each buffer of an epoch, buffers of equal size."""
        dice = generator(seed, epoch)
        mixed = self.stamps[torch.rand(len(self.numbers), len(self.stamps), generator=dice).argsort(1)]
        draws = [
            Draw(epoch, image, tuple(stamps[at : at + self.together]))
            for image, stamps in zip(self.numbers.tolist(), mixed.tolist(), strict=True)
            for at in range(0, len(stamps), self.together)
        ]
        order = torch.randperm(len(draws), generator=dice)
        buffers = -(-len(draws) // self.draws)
        return [[draws[i] for i in part.tolist()] for part in order.tensor_split(buffers)]

    def count(self, plan: list[Draw]) -> int:
        """Tokens in a buffer."""
        return sum(len(draw.stamps) for draw in plan) * self.positions

    def fill(self, plans: Iterator[list[Draw]]) -> Iterator[Buffer]:
        """Make the buffers one by one, the next one in the background."""
        return ahead(self._make, plans, self.stop) if self.live.prefetch else map(self._make, plans)

    @torch.no_grad()
    def _make(self, plan: list[Draw]) -> Buffer:
        rows = Unit(self.live.spec, sum(len(draw.stamps) for draw in plan), measure=False)
        at_once = max(1, self.config.batch_size // (1 if self.whole else self.together))
        for start in range(0, len(plan), at_once):
            if self.stop.is_set():
                raise SparsightError("the reader of this stream has left")
            with self.live.lock:
                self._pass(rows, plan[start : start + at_once])
        return rows.buffer()

    def _pass(self, rows: Unit, draws: list[Draw]) -> None:
        live, spec = self.live, self.live.spec
        numbers = [draw.image for draw in draws]
        begin, image = prepare(live.model, live.source, numbers, self.config), torch.tensor(numbers)
        if self.whole:
            wanted = {"": Wanted(spec.site, spec.timesteps, spec.conditioning)}
            for t, _, tokens in visit(live.model, begin, self.config, wanted, unit=0):
                rows.add(tokens[""], image, torch.full_like(image, t))
            return
        which = torch.tensor([i for i, draw in enumerate(draws) for _ in draw.stamps])
        stamps = torch.tensor([stamp for draw in draws for stamp in draw.stamps])
        noise = torch.stack([self._noise(draw, stamp) for draw in draws for stamp in draw.stamps]).to(begin.states)
        x_t = live.model.schedule.add_noise(begin.states[which.to(begin.states.device)], noise, stamps)
        rows.add(live.model.read(x_t, stamps, [spec.site])[spec.site], image[which], stamps)

    def _noise(self, draw: Draw, t: int) -> Tensor:
        seeds = (self.config.seed, draw.epoch, draw.image, t)
        return torch.randn(self.live.model.latent_shape, generator=generator(*seeds))
