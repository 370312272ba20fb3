"""A store as a source of shuffled tokens.

An epoch shuffles small chunks of maps over the whole store and cuts that order into buffers that fit the budget.
A store that fits into the budget is one buffer, read once and kept.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from itertools import accumulate
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sparsight.activations.encoding import Encoded, generator
from sparsight.activations.shuffle import Buffer, TokenBatch

if TYPE_CHECKING:
    from sparsight.activations.store import Store

CHUNK_BYTES = 256 * 1024  # small enough to mix a buffer from hundreds of places, large enough to read at disk speed


class StoreSource:
    """The chosen maps (`rows`) of a store, cut into chunks, and the buffers that an epoch makes of them."""

    def __init__(self, store: Store, memory_mb: float, rows: Tensor) -> None:
        spec = store.spec
        self.positions, self.ids = spec.positions, store.ids
        map_bytes = spec.map_bytes
        self.budget = max(1, int(memory_mb * 2**20) // (map_bytes + 8 * spec.positions))  # maps; 8 bytes: permutation
        self.starts = [0, *accumulate(shard.maps for shard in store.shards)]
        self.files = [store.files.open(shard.file) for shard in store.shards]
        step = max(1, min(CHUNK_BYTES // map_bytes, self.budget // 32))  # a buffer mixes 32 or more
        self.chunks = [part for shard in self._by_shard(rows) for part in shard.split(step) if len(part)]
        self.tokens = len(rows) * spec.positions
        self.fits = len(rows) <= self.budget
        self.columns = ["tokens"] + ["scale"] * (spec.dtype == "int8") + ["position"] * (spec.kept is not None)

    def _by_shard(self, rows: Tensor) -> list[Tensor]:
        cuts = torch.searchsorted(rows, torch.tensor(self.starts))
        return [rows[a:b] for a, b in zip(cuts[:-1].tolist(), cuts[1:].tolist(), strict=True)]

    def plans(self, seed: int, epoch: int) -> list[list[Tensor]]:
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

    def count(self, plan: list[Tensor]) -> int:
        """Tokens in a buffer."""
        return sum(map(len, plan)) * self.positions

    def fill(self, plans: Iterator[list[Tensor]]) -> Iterator[Buffer]:
        """Read the buffers one by one; the whole store, where it fits, only once."""
        kept = None
        for plan in plans:
            if kept is not None:
                yield kept
            elif self.fits:
                kept = self._read(plan)
                yield kept
            else:
                yield self._read(plan)  # under no name here, so that it is freed before the next one is read

    def _read(self, plan: list[Tensor]) -> Buffer:
        rows, columns = torch.cat(plan), {name: self._column(name, plan) for name in self.columns}
        encoded = Encoded(columns["tokens"], columns.get("scale"))
        return Buffer(encoded, self.ids["image"][rows], self.ids["t"][rows], columns.get("position"))

    def _column(self, name: str, plan: list[Tensor]) -> Tensor:
        first = self._rows(name, plan[0])
        column = first.new_empty(sum(map(len, plan)), *first.shape[1:])
        at = 0
        for chunk in plan:
            column[at : at + len(chunk)] = self._rows(name, chunk)
            at += len(chunk)
        return column

    def _rows(self, name: str, chunk: Tensor) -> Tensor:
        """The rows of maps that lie near each other, as stored."""
        shard = bisect_right(self.starts, int(chunk[0])) - 1
        low, high = int(chunk[0]), int(chunk[-1]) + 1
        start = self.starts[shard]
        return self.files[shard].rows(name, low - start, high - start)[chunk - low]


__all__ = ["StoreSource", "TokenBatch", "generator"]
