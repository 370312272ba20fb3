"""A store's folder on any filesystem that fsspec knows: a bucket, a server, memory."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import fsspec
from safetensors.torch import save
from torch import Tensor

from sparsight.activations.tensors import RangedTensors, Tensors
from sparsight.errors import SparsightError

# An object appears in these when it is whole. Elsewhere it is written beside its name and moved.
_WHOLE_OBJECTS = {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "hf", "oci", "memory"}


class RemoteFolder:
    """A folder behind a URI. Reads are byte ranges; every failure of the other side is a `SparsightError`."""

    def __init__(self, uri: str) -> None:
        self.uri = uri.rstrip("/")
        self.scheme = uri.partition("://")[0]
        try:
            self.files, self.root = fsspec.core.url_to_fs(self.uri)
        except (ValueError, ImportError, OSError) as error:
            raise SparsightError(f"cannot open {uri}: {error}") from error

    def __str__(self) -> str:
        return self.uri

    def __truediv__(self, name: str) -> str:
        return f"{self.uri}/{name}"

    def exists(self, name: str) -> bool:
        """Whether there is such a file."""
        with self._named("read", name):
            return bool(self.files.exists(self._path(name)))

    def names(self) -> list[str]:
        """The names of all files in the folder."""
        with self._named("read", ""):
            return [path.rstrip("/").rsplit("/", 1)[-1] for path in self.files.ls(self.root, detail=False)]

    def size(self, name: str) -> int:
        """Its size in bytes."""
        with self._named("read", name):
            return int(self.files.size(self._path(name)))

    def sha256(self, name: str) -> str:
        """The hash of its content; fetches all of it."""
        with self._named("read", name), self.files.open(self._path(name), "rb") as file:
            sha = hashlib.sha256()
            while block := file.read(1 << 22):
                sha.update(block)
        return sha.hexdigest()

    def read_json(self, name: str) -> Any:
        """Its value."""
        with self._named("read", name):
            try:
                return json.loads(self.files.cat_file(self._path(name)))
            except FileNotFoundError as error:
                raise SparsightError(f"{self / name} does not exist") from error
            except ValueError as error:
                raise SparsightError(f"{self / name} is not readable JSON: {error}") from error

    def write_json(self, name: str, value: Any) -> None:
        """Write it, whole or not at all."""
        self._put(name, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())

    def save(self, name: str, tensors: dict[str, Tensor]) -> None:
        """Write a safetensors file, whole or not at all."""
        self._put(name, save(tensors))

    def remove(self, name: str) -> None:
        """Take a file away, if it is still there."""
        with self._named("remove", name), suppress(FileNotFoundError):
            self.files.rm_file(self._path(name))

    def open(self, name: str) -> Tensors:
        """Read the header of a safetensors file; rows are fetched when they are asked for."""
        path = self._path(name)

        def fetch(start: int, end: int) -> bytes:
            with self._named("read", name):
                return self.files.cat_file(path, start=start, end=end)

        return RangedTensors(str(self / name), self.size(name), fetch)

    def _put(self, name: str, data: bytes) -> None:
        with self._named("write", name):
            self.files.makedirs(self.root, exist_ok=True)
            if self.scheme in _WHOLE_OBJECTS:
                self.files.pipe_file(self._path(name), data)
                return
            beside = self._path(f".{name}.{uuid.uuid4().hex}.part")
            self.files.pipe_file(beside, data)
            self.files.mv(beside, self._path(name))

    def _path(self, name: str) -> str:
        return f"{self.root}/{name}"

    @contextmanager
    def _named(self, verb: str, name: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise SparsightError(f"cannot {verb} {self / name}: {error}") from error
