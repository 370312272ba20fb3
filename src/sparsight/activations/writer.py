"""Writing a store unit by unit; what is whole on disk is never done again."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import Tensor

from sparsight.activations.encoding import DTYPES, Encoded, Spread, encode, kept_positions
from sparsight.activations.folder import Folder, open_folder
from sparsight.activations.spec import INDEX, Index, Shard, StoreSpec
from sparsight.activations.store import Store, maps_in
from sparsight.errors import SparsightError


class Unit:
    """The rows of one shard, encoded as they come, so that a harvest holds them in their storage type only."""

    def __init__(self, spec: StoreSpec, maps: int) -> None:
        self.spec, self.filled, self.spread = spec, 0, Spread(spec.channels)
        tokens = torch.empty(maps, spec.positions, spec.channels, dtype=DTYPES[spec.dtype])
        empty = {"image": torch.empty(maps, dtype=torch.int64), "t": torch.empty(maps, dtype=torch.int64)}
        self.columns: dict[str, Tensor] = {**empty, "tokens": tokens}
        if spec.dtype == "int8":
            self.columns["scale"] = torch.empty(maps, spec.positions)
        if spec.kept is not None:
            self.columns["position"] = torch.empty(maps, spec.positions, dtype=torch.int32)

    def add(self, tokens: Tensor, image: Tensor, t: Tensor, **extra: Tensor) -> None:
        """Append tokens (B, N, C) of whole maps with their image (B,), t (B,) and further columns of B rows.

        Raises `SparsightError` for wrong shapes and for tokens that are not finite in the storage type.
        """
        _check_shapes(self.spec, {"tokens": tokens, "image": image, "t": t, **extra})
        tokens, place = tokens.detach().cpu(), {}
        if self.spec.kept is not None:
            total = self.spec.grid[0] * self.spec.grid[1]
            place = {"position": kept_positions(image, total, self.spec.kept, self.spec.kept_seed)}
            chosen = place["position"].long().unsqueeze(-1).expand(-1, -1, self.spec.channels)
            tokens = tokens.gather(1, chosen)
        encoded = encode(tokens, self.spec.dtype)
        _check_finite(self.spec, tokens, encoded, image)
        self.spread.add(tokens, encoded)
        scale = {} if encoded.scale is None else {"scale": encoded.scale}
        self._fill({"image": image, "t": t, "tokens": encoded.tokens, **scale, **place, **extra})

    def _fill(self, columns: dict[str, Tensor]) -> None:
        maps, end = len(self.columns["tokens"]), self.filled + len(columns["tokens"])
        for name, column in columns.items():
            if name not in self.columns:
                self.columns[name] = column.new_empty(maps, *column.shape[1:], device="cpu")
            self.columns[name][self.filled : end] = column.detach().cpu()
        self.filled = end


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
        kept = {str(_unit_of(name)) for name in names}
        self.errors, self.finished = {unit: pair for unit, pair in self.errors.items() if unit in kept}, True
        self._write_index(shards)
        return Store.open(self.folder, verify=False)

    def _write_index(self, shards: list[Shard] | None = None) -> None:
        Index.of(self.spec, shards or [], self.finished, self.errors).write(self.files)


def shard_name(unit: int) -> str:
    """The file name of a unit."""
    return f"shard-{unit:05d}.safetensors"


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


def _check_shapes(spec: StoreSpec, columns: dict[str, Tensor]) -> None:
    tokens, whole = columns["tokens"], (spec.grid[0] * spec.grid[1], spec.channels)
    if tokens.shape[1:] != whole:
        raise SparsightError(f"tokens at {spec.site} must be (M, {whole[0]}, {whole[1]}), not {tuple(tokens.shape)}")
    for name, column in columns.items():
        if column.ndim == 0 or len(column) != len(tokens):
            raise SparsightError(f"column {name!r} has shape {tuple(column.shape)}, but there are {len(tokens)} maps")


def _check_finite(spec: StoreSpec, tokens: Tensor, encoded: Encoded, image: Tensor) -> None:
    stored = tokens if encoded.scale is not None else encoded.tokens  # whole numbers hide what was not finite
    finite = torch.isfinite(stored).flatten(1).all(1)
    if not finite.all():
        where = int(image.cpu()[~finite][0])
        raise SparsightError(f"image {where} has NaN or infinite activations at {spec.site} (stored as {spec.dtype})")
