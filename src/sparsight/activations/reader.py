"""Reading tokens back in random order with a bounded buffer, restartable at any batch.

The stream is a chain of epochs. An epoch shuffles small chunks of maps over the whole store, cuts that order into
buffers that fit the budget, and permutes the tokens of each buffer. Every permutation comes from (seed, epoch, buffer)
alone, so any position of the stream is found by counting, and nothing has to be replayed. A store that fits into the
budget is one buffer, read once and kept.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from sparsight.errors import SparsightError, unknown

if TYPE_CHECKING:
    from sparsight.activations.store import Store

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
CHUNK_BYTES = 256 * 1024  # small enough to mix a buffer from hundreds of places, large enough to read at disk speed


class TokenBatch(NamedTuple):
    """A batch of B tokens: `tokens` (B, C) fp32, raw; `image`, `t` and `position` (B,) int64 say where each is from."""

    tokens: Tensor
    image: Tensor
    t: Tensor
    position: Tensor


class RowReader:
    """One shard, memory-mapped: reads columns, or some maps of the tokens, without reading the rest."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.file = safe_open(path, "pt")
            self.names = list(self.file.keys())
        except (SafetensorError, OSError) as error:
            raise SparsightError(f"{path} is missing, truncated or corrupt: {error}") from error

    def columns(self, *names: str) -> dict[str, Tensor]:
        """Whole columns as stored."""
        for name in names:
            if name not in self.names:
                raise unknown("store column", name, self.names)
        return {name: self.file.get_tensor(name) for name in names}

    def maps(self, rows: Tensor) -> Tensor:
        """The tokens (len(rows), N, C) of maps that lie near each other, as stored."""
        low, high = int(rows[0]), int(rows[-1]) + 1
        return self.file.get_slice("tokens")[low:high][rows - low]


class _Buffer(NamedTuple):
    tokens: Tensor  # (maps * N, C) in the storage type
    rows: Tensor  # (maps,) index of each map in the store


class _Source:
    """The chosen maps of a store, cut into chunks, and the buffers that an epoch makes of them."""

    def __init__(self, store: Store, memory_mb: float, rows: Tensor) -> None:
        spec = store.spec
        self.positions, self.ids = spec.positions, store.ids
        token_bytes = spec.channels * DTYPES[spec.dtype].itemsize
        self.budget = max(1, int(memory_mb * 2**20 / (token_bytes + 8)) // spec.positions)  # maps; 8 bytes: permutation
        self.starts = [0, *accumulate(shard.maps for shard in store.shards)]
        self.readers = [RowReader(store.folder / shard.file) for shard in store.shards]
        step = max(
            1, min(CHUNK_BYTES // (token_bytes * spec.positions), self.budget // 32)
        )  # a buffer mixes 32 or more
        self.chunks = [part for shard in self._by_shard(rows) for part in shard.split(step) if len(part)]
        self.tokens = len(rows) * spec.positions
        self.fits = len(rows) <= self.budget

    def _by_shard(self, rows: Tensor) -> list[Tensor]:
        cuts = torch.searchsorted(rows, torch.tensor(self.starts))
        return [rows[a:b] for a, b in zip(cuts[:-1].tolist(), cuts[1:].tolist(), strict=True)]

    def buffers(self, seed: int, epoch: int) -> list[list[Tensor]]:
        """The chunks of each buffer of an epoch, in order."""
        if self.fits:
            return [self.chunks]
        groups: list[list[Tensor]] = [[]]
        held = 0
        for index in torch.randperm(len(self.chunks), generator=generator(seed, epoch)).tolist():
            chunk = self.chunks[index]
            if held + len(chunk) > self.budget and groups[-1]:
                groups.append([])
                held = 0
            groups[-1].append(chunk)
            held += len(chunk)
        return groups

    def read(self, chunks: list[Tensor]) -> _Buffer:
        """Read the chunks of one buffer into memory."""
        first = self._maps(chunks[0])
        tokens = first.new_empty(sum(map(len, chunks)), *first.shape[1:])
        at = 0
        for chunk in chunks:
            tokens[at : at + len(chunk)] = self._maps(chunk)
            at += len(chunk)
        return _Buffer(tokens.flatten(0, 1), torch.cat(chunks))

    def _maps(self, chunk: Tensor) -> Tensor:
        shard = bisect_right(self.starts, int(chunk[0])) - 1
        return self.readers[shard].maps(chunk - self.starts[shard])

    def batch(self, buffer: _Buffer, index: Tensor) -> TokenBatch:
        """The tokens at these places of a buffer."""
        rows = buffer.rows[index // self.positions]
        return TokenBatch(
            buffer.tokens[index].float(), self.ids["image"][rows], self.ids["t"][rows], index % self.positions
        )


def generator(*seeds: int) -> torch.Generator:
    """A generator whose stream depends on all the numbers given, and on nothing else."""
    value = hashlib.sha256("/".join(map(str, seeds)).encode()).digest()[:8]
    return torch.Generator().manual_seed(int.from_bytes(value, "little") >> 1)


def shuffled_batches(
    store: Store, batch_size: int, seed: int, memory_mb: float, start: int, rows: Tensor
) -> Iterator[TokenBatch]:
    """The stream behind `Store.batches`; `rows` are the maps to read."""
    if batch_size < 1 or start < 0 or memory_mb <= 0:
        raise SparsightError(
            f"batches need batch_size >= 1, start >= 0, memory_mb > 0: {batch_size}, {start}, {memory_mb}"
        )
    return _rebatch(_pieces(_Source(store, memory_mb, rows), batch_size, seed, start * batch_size), batch_size)


def _pieces(source: _Source, size: int, seed: int, skip: int) -> Iterator[TokenBatch]:
    """The stream from token number `skip`, in pieces of at most `size` that end where a buffer or a batch ends."""
    epoch, skip = divmod(skip, source.tokens)
    missing, kept = size, None
    while True:
        for number, chunks in enumerate(source.buffers(seed, epoch)):
            count = sum(map(len, chunks)) * source.positions
            if skip >= count:
                skip -= count
                continue
            buffer = kept if kept is not None else source.read(chunks)
            kept = buffer if source.fits else None
            order = torch.randperm(count, generator=generator(seed, epoch, number))
            while skip < count:
                index = order[skip : skip + missing]
                skip, missing = skip + len(index), (missing - len(index)) or size
                yield source.batch(buffer, index)
            del buffer  # before the next one is read: one buffer at a time
            skip = 0
        epoch += 1


def _rebatch(pieces: Iterator[TokenBatch], size: int) -> Iterator[TokenBatch]:
    """Join pieces to batches of `size`; pieces never straddle a batch."""
    held: list[TokenBatch] = []
    for piece in pieces:
        held.append(piece)
        if sum(len(p.image) for p in held) == size:
            yield held[0] if len(held) == 1 else TokenBatch(*(torch.cat(parts) for parts in zip(*held, strict=True)))
            held = []
