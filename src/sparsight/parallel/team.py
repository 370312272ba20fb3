"""The questions that the processes of one training ask each other, as a process alone answers them.

`Team` answers each question with what it has, so that code may ask without knowing how many there are; `Ranks` asks the
others. Every rank must ask the same questions in the same order: what decides whether to ask is a whole number that all
of them hold, never a float of one's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from sparsight.errors import SparsightError


class Team:
    """One process alone. Tensors come back as they are."""

    rank, size = 0, 1

    @property
    def leads(self) -> bool:
        """Whether this is rank 0, which writes the files and tells the user."""
        return self.rank == 0

    def rows(self, batch: int) -> slice:
        """This rank's rows of a batch; parts are equal and in the order of ranks."""
        if batch % self.size:
            near = max(1, batch // self.size) * self.size
            raise SparsightError(
                f"a batch of {batch} tokens cannot be shared equally by {self.size} processes: use {near}"
            )
        part = batch // self.size
        return slice(part * self.rank, part * (self.rank + 1))

    def mean(self, x: Tensor) -> Tensor:
        """The mean over ranks of a tensor of any shape."""
        return x

    def mean_in_place(self, tensors: Sequence[Tensor]) -> None:
        """Put the mean over ranks into each of the tensors, which must be contiguous."""

    def total(self, x: Tensor) -> Tensor:
        """The sum over ranks."""
        return x

    def least(self, x: Tensor) -> Tensor:
        """The smallest over ranks, element by element."""
        return x

    def anywhere(self, mask: Tensor) -> Tensor:
        """Where a mask is true on any rank."""
        return mask

    def count(self, number: int) -> int:
        """The sum over ranks of a whole number."""
        return number

    def highest(self, number: int) -> int:
        """The largest over ranks of a whole number: a signal that only some of them have heard, say."""
        return number

    def gather(self, x: Tensor) -> Tensor:
        """The rows (n, ...) of all ranks in the order of ranks; n may differ between them."""
        return x

    def place(self, rows: int) -> slice:
        """Where this rank's `rows` rows lie in what `gather` gives."""
        return slice(0, rows)

    def of_first(self, value: Any) -> Any:
        """Rank 0's value of something that JSON can hold."""
        return value

    def agree_on(self, value: Any, what: str) -> None:
        """Refuse a rank whose value of `what` is not rank 0's."""
        if self.of_first(value) != value:
            raise SparsightError(f"rank {self.rank} was started with another {what} than rank 0")

    def tensors_of_first(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Rank 0's tensors by name, whatever the others hold."""
        return tensors

    def wait(self) -> None:
        """Until every rank is here."""


ALONE = Team()
