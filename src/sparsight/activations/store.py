"""Activations on disk: one safetensors shard a unit of work, and a `store.json` that says what they are.

A shard appears under its name only when it is whole, so a harvest that was killed goes on at the first missing unit.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sparsight.activations.reader import DTYPES, RowReader, TokenBatch, shuffled_batches
from sparsight.errors import SparsightError, unknown
from sparsight.files import atomic, digest, read_json, write_json

SCHEMA = 1
INDEX = "store.json"


@dataclass(frozen=True)
class StoreSpec:
    """What a store holds: written to `store.json` and checked on opening.

    `channels` is C, `grid` the height and width of the map (positions run row-major over it), `dtype` the storage type
    of the tokens ("fp32", "fp16", "bf16"), `timesteps` the scheduler's integer timesteps, `source` where x_t came from.
    """

    site: str
    mode: str
    channels: int
    grid: tuple[int, int]
    model: str
    model_hash: str
    dtype: str
    timesteps: tuple[int, ...]
    source: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "grid", tuple(self.grid))
        object.__setattr__(self, "timesteps", tuple(self.timesteps))
        if self.dtype not in DTYPES:
            raise unknown("store dtype", self.dtype, DTYPES)
        if self.mode not in ("output", "update"):
            raise unknown("site mode", self.mode, ("output", "update"))
        if len(self.grid) != 2 or min(self.channels, *self.grid) < 1:
            raise SparsightError(
                f"a store needs channels and a grid of at least 1, not {self.channels} and {self.grid}"
            )

    @property
    def positions(self) -> int:
        """Tokens in one map."""
        return self.grid[0] * self.grid[1]


class Shard(NamedTuple):
    """One file of a store: its name, the number of maps in it, its size in bytes and its SHA-256."""

    file: str
    maps: int
    size: int
    sha256: str


class StoreWriter:
    """Fill a store unit by unit. A folder that already holds units of the same spec is continued.

    Raises `SparsightError` if the folder holds a store of another spec.
    """

    def __init__(self, folder: Path | str, spec: StoreSpec) -> None:
        self.folder, self.spec = Path(folder), spec
        if (self.folder / INDEX).exists():
            _require_same_spec(self.folder, _read_index(self.folder)["spec"], spec)
        else:
            self._write_index(finished=False)

    def has(self, unit: int) -> bool:
        """Whether this unit is whole on disk, so that a resumed harvest can skip it."""
        path = self.folder / shard_name(unit)
        try:
            return path.exists() and _maps_in(path) >= 0
        except SparsightError:
            return False

    def write(self, unit: int, tokens: Tensor, image: Tensor, t: Tensor, **extra: Tensor) -> None:
        """Write one shard: tokens (M, N, C), image (M,), t (M,), and further columns of M rows, e.g. x_t (M, c, h, w).

        Tokens are stored as `spec.dtype`, ids as int64, extra columns as they come. Raises `SparsightError` for wrong
        shapes and for tokens that are not finite in the storage type.
        """
        columns = {"image": image.long(), "t": t.long(), "tokens": tokens.to(DTYPES[self.spec.dtype]), **extra}
        _check_columns(self.spec, columns)
        if read_json(self.folder / INDEX)["finished"]:
            self._write_index(finished=False)
        with atomic(self.folder / shard_name(unit)) as temporary:
            save_file({name: column.detach().cpu().contiguous() for name, column in columns.items()}, temporary)

    def finish(self) -> Store:
        """Record every shard with its digest, mark the store as finished, and open it."""
        paths = sorted(self.folder.glob("shard-*.safetensors"), key=_unit_of)
        if not paths:
            raise SparsightError(f"{self.folder} holds no shards: write at least one unit before finish()")
        self._write_index(True, [Shard(p.name, _maps_in(p), p.stat().st_size, _sha256(p)) for p in paths])
        return Store.open(self.folder, verify=False)

    def _write_index(self, finished: bool, shards: list[Shard] | None = None) -> None:
        rows = [shard._asdict() for shard in shards or []]
        index = {"schema": SCHEMA, "finished": finished, "spec": asdict(self.spec), "shards": rows}
        write_json(self.folder / INDEX, index | {"digest": digest([index["spec"], rows])})


class Store:
    """A finished set of activations, read without loading it whole. Open one with `Store.open`."""

    def __init__(self, folder: Path, spec: StoreSpec, shards: list[Shard], content: str) -> None:
        self.folder, self.spec, self.shards, self.digest = folder, spec, shards, content

    @classmethod
    def open(cls, folder: Path | str, verify: bool = True) -> Store:
        """Open a finished store. `verify` also compares every shard with its recorded SHA-256 (about 1 GB/s).

        Raises `SparsightError` for a store that is unfinished, of another schema, or has a missing, truncated or
        corrupt shard.
        """
        folder = Path(folder)
        index = _read_index(folder)
        if not index["finished"]:
            raise SparsightError(f"the store {folder} is unfinished: run the harvest again to complete it")
        shards = [Shard(**row) for row in index["shards"]]
        for shard in shards:
            _check_shard(folder / shard.file, shard, verify)
        return cls(folder, index["spec"], shards, index["digest"])

    def __len__(self) -> int:
        """Number of maps M; each holds `spec.positions` tokens."""
        return sum(shard.maps for shard in self.shards)

    def require(self, *, model_hash: str, site: str) -> None:
        """Refuse a store that was made by another model or at another site, naming both."""
        if site != self.spec.site:
            raise SparsightError(f"the store {self.folder} holds site {self.spec.site!r}, but {site!r} is asked for")
        if model_hash != self.spec.model_hash:
            made = f"{self.spec.model} ({self.spec.model_hash})"
            raise SparsightError(
                f"the store {self.folder} was made by model {made}, but the model here is {model_hash}"
            )

    @cached_property
    def ids(self) -> dict[str, Tensor]:
        """The small columns of the whole store: "image" and "t", int64 (M,)."""
        parts = [RowReader(self.folder / shard.file).columns("image", "t") for shard in self.shards]
        return {name: torch.cat([part[name] for part in parts]) for name in ("image", "t")}

    @property
    def images(self) -> Tensor:
        """The ids of the images in the store, sorted, int64."""
        return self.ids["image"].unique()

    def rows(self, images: Tensor | list[int] | None = None) -> Tensor:
        """The indices of the maps that belong to `images` (all if None), in storage order, int64."""
        if images is None:
            return torch.arange(len(self))
        rows = torch.isin(self.ids["image"], torch.as_tensor(images)).nonzero().squeeze(1)
        if not len(rows):
            raise SparsightError(f"none of the chosen images is in the store {self.folder}")
        return rows

    def load(self, *names: str, images: Tensor | list[int] | None = None) -> dict[str, Tensor]:
        """Whole columns, by default of every image, in storage order; "tokens" come as fp32 (M, N, C)."""
        rows, start, parts = self.rows(images), 0, []
        for shard in self.shards:
            mine = rows[(rows >= start) & (rows < start + shard.maps)] - start
            if len(mine):
                parts.append({k: v[mine] for k, v in RowReader(self.folder / shard.file).columns(*names).items()})
            start += shard.maps
        whole = {name: torch.cat([part[name] for part in parts]) for name in names}
        return {name: column.float() if name == "tokens" else column for name, column in whole.items()}

    def batches(
        self,
        batch_size: int,
        *,
        seed: int,
        memory_mb: float = 256,
        start: int = 0,
        images: Tensor | list[int] | None = None,
    ) -> Iterator[TokenBatch]:
        """Endless token batches, shuffled over images, timesteps and positions, from batch number `start`.

        The stream is a function of the store, `batch_size`, `seed`, `memory_mb` and `images`: starting at `start` gives
        the same batches as reading from 0. Every epoch holds each token once. `memory_mb` bounds the buffer.
        """
        return shuffled_batches(self, batch_size, seed, memory_mb, start, self.rows(images))


def shard_name(unit: int) -> str:
    """The file name of a unit."""
    return f"shard-{unit:05d}.safetensors"


def _unit_of(path: Path) -> int:
    found = re.fullmatch(r"shard-(\d+)\.safetensors", path.name)
    if found is None:
        raise SparsightError(f"{path} is not a shard of a store")
    return int(found[1])


def _read_index(folder: Path) -> dict[str, Any]:
    index = read_json(folder / INDEX)
    if not isinstance(index, dict) or index.get("schema") != SCHEMA:
        found = index.get("schema") if isinstance(index, dict) else None
        raise SparsightError(f"{folder / INDEX} has schema {found}, but this version of sparsight reads {SCHEMA}")
    try:
        return index | {"spec": StoreSpec(**index["spec"])}
    except (KeyError, TypeError) as error:
        raise SparsightError(f"{folder / INDEX} does not describe a store: {error}") from error


def _require_same_spec(folder: Path, found: StoreSpec, wanted: StoreSpec) -> None:
    for name, value in asdict(wanted).items():
        if getattr(found, name) != value:
            raise SparsightError(f"{folder} holds a store with {name} {getattr(found, name)!r}, not {value!r}")


def _check_columns(spec: StoreSpec, columns: dict[str, Tensor]) -> None:
    tokens, image = columns["tokens"], columns["image"]
    if tokens.shape[1:] != (spec.positions, spec.channels):
        wanted = f"(M, {spec.positions}, {spec.channels})"
        raise SparsightError(f"tokens at {spec.site} must be {wanted}, not {tuple(tokens.shape)}")
    for name, column in columns.items():
        if column.ndim == 0 or len(column) != len(tokens):
            raise SparsightError(f"column {name!r} has shape {tuple(column.shape)}, but there are {len(tokens)} maps")
    finite = torch.isfinite(tokens).flatten(1).all(1).cpu()
    if not finite.all():
        where = int(image.cpu()[~finite][0])
        raise SparsightError(f"image {where} has NaN or infinite activations at {spec.site} (stored as {spec.dtype})")


def _maps_in(path: Path) -> int:
    try:
        with safe_open(path, "pt") as file:
            return int(file.get_slice("image").get_shape()[0])
    except (SafetensorError, OSError) as error:
        raise SparsightError(f"{path} is truncated or corrupt: {error}") from error


def _check_shard(path: Path, shard: Shard, verify: bool) -> None:
    if not path.exists():
        raise SparsightError(f"the shard {path} is missing")
    if path.stat().st_size != shard.size or _maps_in(path) != shard.maps:
        raise SparsightError(f"{path} is truncated or corrupt: {path.stat().st_size} bytes, {shard.size} were written")
    if verify and _sha256(path) != shard.sha256:
        raise SparsightError(f"{path} is corrupt: its content differs from what was written")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
