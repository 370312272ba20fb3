"""Reading parts of a safetensors file: through a memory map on this machine, through byte ranges elsewhere."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from sparsight.errors import SparsightError

_TYPES = {
    "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "F64": torch.float64,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8,
}  # fmt: skip


class Tensors(Protocol):
    """An open safetensors file: `names` of its tensors, and their rows."""

    names: list[str]

    def shape(self, name: str) -> list[int]:
        """The shape of a tensor."""
        ...

    def rows(self, name: str, low: int, high: int) -> Tensor:
        """Rows `low` to `high` of a tensor, as stored, without reading the rest."""
        ...


class LocalTensors:
    """A file of this machine, mapped into memory. Raises `SparsightError` if it is missing, truncated or corrupt."""

    def __init__(self, path: Path) -> None:
        try:
            self.file = safe_open(path, "pt")
            self.names = list(self.file.keys())
        except (SafetensorError, OSError) as error:
            raise SparsightError(f"{path} is missing, truncated or corrupt: {error}") from error

    def shape(self, name: str) -> list[int]:
        """The shape of a tensor."""
        return list(self.file.get_slice(name).get_shape())

    def rows(self, name: str, low: int, high: int) -> Tensor:
        """Rows `low` to `high`."""
        return self.file.get_slice(name)[low:high]


class RangedTensors:
    """A file of which `fetch(start, end)` gives bytes. Raises `SparsightError` if it is truncated or corrupt.

    The layout is safetensors' own: eight bytes of length, a JSON header of that length, the data.
    """

    def __init__(self, name: str, size: int, fetch: Callable[[int, int], bytes]) -> None:
        self.fetch = fetch
        try:
            self.base = 8 + int.from_bytes(fetch(0, 8), "little")
            if self.base > size:
                raise ValueError("its header is longer than the file")
            header = json.loads(fetch(8, self.base))
            self.entries = {key: value for key, value in header.items() if key != "__metadata__"}
            end = self.base + max((entry["data_offsets"][1] for entry in self.entries.values()), default=0)
            if end != size:
                raise ValueError(f"{size} bytes, but its header speaks of {end}")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise SparsightError(f"{name} is truncated or corrupt: {error}") from error
        self.names = list(self.entries)

    def shape(self, name: str) -> list[int]:
        """The shape of a tensor."""
        return list(self.entries[name]["shape"])

    def rows(self, name: str, low: int, high: int) -> Tensor:
        """Rows `low` to `high`, by one request."""
        entry = self.entries[name]
        begin, end = entry["data_offsets"]
        count, *rest = entry["shape"]
        low, high, width = low, min(high, count), (end - begin) // max(count, 1)
        start = self.base + begin
        data = bytearray(self.fetch(start + low * width, start + high * width))
        return torch.frombuffer(data, dtype=_TYPES[entry["dtype"]]).reshape(high - low, *rest)
