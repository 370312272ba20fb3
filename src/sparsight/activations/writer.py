"""Writing a store unit by unit; what is whole on disk is never done again."""

from __future__ import annotations

import re
from pathlib import Path

from torch import Tensor

from sparsight.activations.folder import Folder, open_folder
from sparsight.activations.spec import INDEX, Index, Shard, StoreSpec
from sparsight.activations.store import Store, maps_in
from sparsight.activations.unit import Unit
from sparsight.errors import SparsightError


class StoreWriter:
    """Fill a store unit by unit. A folder that already holds units of the same spec is continued.

    `folder` is a path, or a URI that fsspec knows. Raises `SparsightError` if it holds a store of another spec.
    """

    def __init__(self, folder: Path | str, spec: StoreSpec) -> None:
        self.folder, self.spec = folder, spec
        self.files: Folder = open_folder(folder)
        self.errors: dict[str, list[float]] = {}
        self.finished = False
        if self.files.exists(INDEX):
            index = Index.read(self.files)
            _require_same_spec(self.files, index.spec, spec)
            self.errors, self.finished = index.errors, index.finished
        else:
            self._write_index()

    def has(self, unit: int) -> bool:
        """Whether this unit is whole on disk, so that a resumed harvest can skip it."""
        name = shard_name(unit)
        try:
            return self.files.exists(name) and maps_in(self.files, name) >= 0
        except SparsightError:
            return False

    def write(self, unit: int, tokens: Tensor, image: Tensor, t: Tensor, **extra: Tensor) -> None:
        """Write one shard: tokens (M, N, C) of whole maps, image (M,), t (M,), and further columns of M rows.

        Tokens are stored as `spec` says, ids as int64, extra columns (e.g. x_t (M, c, h, w)) as they come. Raises
        `SparsightError` for wrong shapes, for tokens that are not finite in the storage type, and for a full disk.
        """
        rows = Unit(self.spec, len(tokens))
        rows.add(tokens, image, t, **extra)
        self.publish(unit, rows)

    def publish(self, unit: int, rows: Unit) -> None:
        """Write one shard from a `Unit` that is full; it appears under its name only when it is whole."""
        self.errors[str(unit)] = rows.spread.sums()
        self.finished = False
        self._write_index()  # first, so that a shard that is there always has its error on record
        self.files.save(shard_name(unit), {name: column.contiguous() for name, column in rows.columns.items()})

    def finish(self) -> Store:
        """Record every shard with its digest, mark the store as finished, and open it."""
        names = sorted((n for n in self.files.names() if n.startswith("shard-")), key=_unit_of)
        if not names:
            raise SparsightError(f"{self.files} holds no shards: write at least one unit before finish()")
        shards = [Shard(n, maps_in(self.files, n), self.files.size(n), self.files.sha256(n)) for n in names]
        self.errors |= noted_errors(self.files)
        kept = {str(_unit_of(name)) for name in names}
        self.errors, self.finished = {unit: pair for unit, pair in self.errors.items() if unit in kept}, True
        self._write_index(shards)
        remove_notes(self.files)
        return Store.open(self.folder, verify=False)

    def _write_index(self, shards: list[Shard] | None = None) -> None:
        Index.of(self.spec, shards or [], self.finished, self.errors).write(self.files)


def shard_name(unit: int) -> str:
    """The file name of a unit."""
    return f"shard-{unit:05d}.safetensors"


def note_name(unit: int) -> str:
    """The name of what is noted of a unit while several processes write a store."""
    return f"note-{unit:05d}.json"


def noted_errors(files: Folder) -> dict[str, list[float]]:
    """The errors of storage that several processes noted before one went on alone."""
    names = [name for name in files.names() if name.startswith("note-")]
    return {str(int(name[5:-5])): files.read_json(name)["error"] for name in names}


def remove_notes(files: Folder) -> None:
    """Take away the notes of a finished store."""
    for name in files.names():
        if name.startswith("note-"):
            files.remove(name)


def _unit_of(name: str) -> int:
    found = re.fullmatch(r"shard-(\d+)\.safetensors", name)
    if found is None:
        raise SparsightError(f"{name} is not a shard of a store")
    return int(found[1])


def _require_same_spec(folder: Folder, found: StoreSpec, wanted: StoreSpec) -> None:
    for name in StoreSpec.__dataclass_fields__:
        here, there = getattr(wanted, name), getattr(found, name)
        if here != there:
            raise SparsightError(f"{folder} holds a store with {name} {there!r}, not {here!r}")
