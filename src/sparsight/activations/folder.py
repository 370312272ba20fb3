"""Where a store lives: a folder of this machine, or any folder that fsspec reaches (a bucket), with the same verbs."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Protocol

from safetensors.torch import save_file
from torch import Tensor

from sparsight.activations.tensors import LocalTensors, Tensors
from sparsight.files import atomic, read_json, write_json


class Folder(Protocol):
    """The few things that a store asks of the place where it lives. `folder / name` is for messages."""

    def __truediv__(self, name: str) -> str | Path: ...

    def exists(self, name: str) -> bool:
        """Whether there is such a file."""
        ...

    def names(self) -> list[str]:
        """The names of all files in the folder."""
        ...

    def size(self, name: str) -> int:
        """Its size in bytes."""
        ...

    def sha256(self, name: str) -> str:
        """The hash of its content; reads all of it."""
        ...

    def read_json(self, name: str) -> Any:
        """Its value; a `SparsightError` that names the file if it is missing or broken."""
        ...

    def write_json(self, name: str, value: Any) -> None:
        """Write it, whole or not at all."""
        ...

    def save(self, name: str, tensors: dict[str, Tensor]) -> None:
        """Write a safetensors file, whole or not at all; a full disk is a `SparsightError`."""
        ...

    def remove(self, name: str) -> None:
        """Take a file away, if it is still there."""
        ...

    def open(self, name: str) -> Tensors:
        """Open a safetensors file for reading parts of it."""
        ...


class LocalFolder:
    """A folder of this machine. Files are mapped into memory, and appear under their names only when whole."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    def __str__(self) -> str:
        return str(self.path)

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def exists(self, name: str) -> bool:
        """Whether there is such a file."""
        return (self.path / name).exists()

    def names(self) -> list[str]:
        """The names of all files in the folder."""
        return [path.name for path in self.path.iterdir()]

    def size(self, name: str) -> int:
        """Its size in bytes."""
        return (self.path / name).stat().st_size

    def sha256(self, name: str) -> str:
        """The hash of its content."""
        with (self.path / name).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def read_json(self, name: str) -> Any:
        """Its value."""
        return read_json(self.path / name)

    def write_json(self, name: str, value: Any) -> None:
        """Write it atomically."""
        write_json(self.path / name, value)

    def save(self, name: str, tensors: dict[str, Tensor]) -> None:
        """Write a safetensors file atomically."""
        with atomic(self.path / name) as temporary:
            save_file(tensors, temporary)

    def remove(self, name: str) -> None:
        """Take a file away, if it is still there."""
        (self.path / name).unlink(missing_ok=True)

    def open(self, name: str) -> Tensors:
        """Map a safetensors file into memory."""
        return LocalTensors(self.path / name)


def open_folder(folder: Path | str) -> Folder:
    """A folder by its path, or by a URI such as `s3://bucket/store`, which needs the fsspec package of that scheme."""
    text = str(folder)
    if isinstance(folder, Path) or "://" not in text:
        return LocalFolder(folder)
    if text.startswith(("file://", "local://")):
        return LocalFolder(text.partition("://")[2])
    from sparsight.activations.remote import RemoteFolder  # fsspec costs import time that local stores need not pay

    return RemoteFolder(text)
