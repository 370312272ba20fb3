"""Shuffled token batches from a bounded buffer, restartable at any batch.

The stream is a chain of epochs. A source cuts an epoch into buffers that fit the budget, and the tokens of each buffer
are permuted. Every permutation comes from (seed, epoch, buffer) alone, so any position of the stream is found by
counting, and nothing has to be replayed. Sources are stores (`reader.py`) and live models (`live.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from sparsight.activations.encoding import Encoded, generator
from sparsight.errors import SparsightError


class TokenBatch(NamedTuple):
    """A batch of B tokens: `tokens` (B, C) fp32, raw; `image`, `t` and `position` (B,) int64 say where each is from."""

    tokens: Tensor
    image: Tensor
    t: Tensor
    position: Tensor


class Buffer(NamedTuple):
    """Maps in memory: tokens (M, N, C) as stored, `image` and `t` (M,), and `position` (M, N) where maps have holes."""

    encoded: Encoded
    image: Tensor
    t: Tensor
    position: Tensor | None = None

    def __len__(self) -> int:
        """Number of tokens."""
        return self.encoded.tokens.shape[0] * self.encoded.tokens.shape[1]

    def batch(self, index: Tensor) -> TokenBatch:
        """The tokens of these numbers (B,)."""
        (tokens, scale), per_map = self.encoded, self.encoded.tokens.shape[1]
        row, position = index // per_map, index % per_map
        if self.position is not None:
            position = self.position.flatten()[index].long()
        chosen = Encoded(tokens.flatten(0, 1)[index], None if scale is None else scale.flatten()[index])
        return TokenBatch(chosen.decode(), self.image[row], self.t[row], position)


class Source(Protocol):
    """What a stream is made of: `tokens` in an epoch, plans of buffers, and a way to fill one."""

    tokens: int

    def plans(self, seed: int, epoch: int) -> list[Any]:
        """What each buffer of an epoch shall hold, in order."""
        ...

    def count(self, plan: Any) -> int:
        """Tokens in the buffer of a plan."""
        ...

    def fill(self, plans: Iterator[Any]) -> Iterator[Buffer]:
        """The buffer of each plan; at most the memory that was given is held at a time."""
        ...


class _Place(NamedTuple):
    epoch: int
    buffer: int
    first: int  # token of the buffer's order with which to begin


def shuffled_batches(
    source: Callable[[], Source], batch_size: int, seed: int, memory_mb: float, start: int
) -> Iterator[TokenBatch]:
    """The stream of a source from batch number `start`."""
    if batch_size < 1 or start < 0 or memory_mb <= 0:
        raise SparsightError(
            f"batches need batch_size >= 1, start >= 0, memory_mb > 0: {batch_size}, {start}, {memory_mb}"
        )
    return _rebatch(_pieces(source(), batch_size, seed, start * batch_size), batch_size)


def _planned(source: Source, seed: int, skip: int) -> Iterator[tuple[_Place, Any]]:
    """Every buffer from token number `skip` of the stream on."""
    epoch, skip = divmod(skip, source.tokens)
    while True:
        for number, plan in enumerate(source.plans(seed, epoch)):
            count = source.count(plan)
            if skip < count:
                yield _Place(epoch, number, skip), plan
            skip = max(0, skip - count)
        epoch += 1


def _pieces(source: Source, size: int, seed: int, skip: int) -> Iterator[TokenBatch]:
    """The stream from token number `skip`, in pieces of at most `size` that end where a buffer or a batch ends."""
    planned, missing = _planned(source, seed, skip), size
    places: list[_Place] = []  # a source may ask for plans ahead of the buffer that is being read
    filled = source.fill(_noting(planned, places))
    while True:
        buffer = next(filled)
        epoch, number, at = places.pop(0)
        order = torch.randperm(len(buffer), generator=generator(seed, epoch, number))
        while at < len(buffer):
            index = order[at : at + missing]
            at, missing = at + len(index), (missing - len(index)) or size
            yield buffer.batch(index)
        del buffer, order  # before the next one is filled


def _noting(planned: Iterable[tuple[_Place, Any]], places: list[_Place]) -> Iterator[Any]:
    for place, plan in planned:
        places.append(place)
        yield plan


def _rebatch(pieces: Iterator[TokenBatch], size: int) -> Iterator[TokenBatch]:
    """Join pieces to batches of `size`; pieces never straddle a batch."""
    held: list[TokenBatch] = []
    for piece in pieces:
        held.append(piece)
        if sum(len(p.image) for p in held) == size:
            yield held[0] if len(held) == 1 else TokenBatch(*(torch.cat(parts) for parts in zip(*held, strict=True)))
            held = []
