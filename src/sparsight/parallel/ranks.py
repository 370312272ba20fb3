"""Several processes: all that they say to each other, through torch.distributed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from sparsight.parallel.ending import hearing
from sparsight.parallel.team import Team


class Ranks(Team):
    """Several processes, through the default group of torch.distributed. Raises `SparsightError` if one of them is gone."""

    def __init__(self, device: torch.device) -> None:
        self.rank, self.size, self.device = dist.get_rank(), dist.get_world_size(), device

    def mean(self, x: Tensor) -> Tensor:
        """The mean over ranks."""
        return self.total(x) / self.size

    def mean_in_place(self, tensors: Sequence[Tensor]) -> None:
        """The mean over ranks; all of them travel at once."""
        with hearing():
            for work in [dist.all_reduce(tensor, async_op=True) for tensor in tensors]:
                work.wait()
        for tensor in tensors:
            tensor.div_(self.size)

    def total(self, x: Tensor) -> Tensor:
        """The sum over ranks."""
        return self._reduced(x, dist.ReduceOp.SUM)

    def least(self, x: Tensor) -> Tensor:
        """The smallest over ranks."""
        return self._reduced(x, dist.ReduceOp.MIN)

    def anywhere(self, mask: Tensor) -> Tensor:
        """Where a mask is true on any rank."""
        return self._reduced(mask.to(torch.uint8), dist.ReduceOp.MAX).bool()

    def count(self, number: int) -> int:
        """The sum over ranks of a whole number."""
        return sum(self._counts(number))

    def highest(self, number: int) -> int:
        """The largest over ranks of a whole number."""
        return max(self._counts(number))

    def place(self, rows: int) -> slice:
        """Where this rank's rows lie in what `gather` gives."""
        counts = self._counts(rows)
        return slice(sum(counts[: self.rank]), sum(counts[: self.rank + 1]))

    def gather(self, x: Tensor) -> Tensor:
        """The rows of all ranks. Shorter ones are padded on the way."""
        counts = self._counts(len(x))
        padded = x.new_zeros(max(counts), *x.shape[1:])
        padded[: len(x)] = x
        return torch.cat([rows[:count] for rows, count in zip(self._all(padded), counts, strict=True)])

    def of_first(self, value: Any) -> Any:
        """Rank 0's value."""
        data = torch.tensor(list(json.dumps(value).encode()), dtype=torch.uint8, device=self.device)
        size = self._from_first(torch.tensor(len(data), device=self.device))
        return json.loads(bytes(self._from_first(data if self.leads else data.new_empty(int(size))).tolist()))

    def tensors_of_first(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Rank 0's tensors: first what they look like, then one after the other."""
        forms = {name: [list(x.shape), str(x.dtype).removeprefix("torch.")] for name, x in tensors.items()}
        empty = {
            n: torch.empty(s, dtype=getattr(torch, d), device=self.device) for n, (s, d) in self.of_first(forms).items()
        }
        return {
            n: self._from_first(tensors[n].to(self.device).contiguous() if self.leads else x) for n, x in empty.items()
        }

    def wait(self) -> None:
        """Until every rank is here."""
        self.total(torch.zeros(1, device=self.device)).tolist()  # a barrier that a GPU cannot run past

    def _reduced(self, x: Tensor, how: Any) -> Tensor:
        x = x.clone()
        with hearing():
            dist.all_reduce(x, op=how)
        return x

    def _counts(self, number: int) -> list[int]:
        return torch.stack(self._all(torch.tensor(number, device=self.device))).tolist()

    def _all(self, x: Tensor) -> list[Tensor]:
        parts = [torch.empty_like(x) for _ in range(self.size)]
        with hearing():
            dist.all_gather(parts, x)
        return parts

    def _from_first(self, x: Tensor) -> Tensor:
        with hearing():
            dist.broadcast(x, src=0)
        return x
