"""Activations on disk: one safetensors shard a unit of work, and a `store.json` that says what they are.

A shard appears under its name only when it is whole, so a harvest that was killed goes on at the first missing unit.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from sparsight.activations.encoding import Encoded
from sparsight.activations.folder import Folder, open_folder
from sparsight.activations.reader import StoreSource
from sparsight.activations.shuffle import TokenBatch, shuffled_batches
from sparsight.activations.spec import Index, Shard
from sparsight.activations.tensors import Tensors
from sparsight.errors import SparsightError, unknown

DAMAGED = ("refuse", "skip")


class Store:
    """A finished set of activations, read without loading it whole. Open one with `Store.open`."""

    def __init__(self, folder: Path | str, index: Index) -> None:
        self.folder, self.files = folder, open_folder(folder)
        self.spec, self.shards, self.digest = index.spec, index.shards, index.digest
        self.relative_mse = index.relative_mse

    @classmethod
    def open(cls, folder: Path | str, verify: bool = True, damaged: str = "refuse") -> Store:
        """Open a finished store at a path or a URI. `verify` compares every shard with its SHA-256 (about 1 GB/s).

        Raises `SparsightError` for a store that is unfinished, of another schema, or has a missing, truncated or
        corrupt shard. `damaged="skip"` leaves such shards out and warns of each by name; the digest is then another.
        """
        if damaged not in DAMAGED:
            raise unknown("treatment of damaged shards", damaged, DAMAGED)
        files = open_folder(folder)
        index = Index.read(files)
        if not index.finished:
            raise SparsightError(f"the store {folder} is unfinished: run the harvest again to complete it")
        good = [shard for shard in index.shards if _is_whole(files, shard, verify, damaged)]
        if not good:
            raise SparsightError(f"every shard of the store {folder} is damaged: harvest it again")
        if len(good) < len(index.shards):  # what is left was not measured apart
            index = Index.of(index.spec, good, finished=True, errors={})
        return cls(folder, index)

    def __len__(self) -> int:
        """Number of maps M; each holds `spec.positions` tokens."""
        return sum(shard.maps for shard in self.shards)

    def __str__(self) -> str:
        return str(self.folder)

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
        parts = [_columns(self.files.open(shard.file), "image", "t") for shard in self.shards]
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

    def load(self, *names: str, images: Tensor | list[int] | None = None, t: int | None = None) -> dict[str, Tensor]:
        """Whole columns, by default of every image and timestep, in storage order; "tokens" come as fp32 (M, N, C).

        Of each shard no more is read than lies between the first and the last row that is wanted: the rows of one
        timestep `t` of inverted images lie side by side.
        """
        scale = ("scale",) if "tokens" in names and self.spec.dtype == "int8" else ()
        rows, start, parts = self.rows(images), 0, []
        if t is not None:
            rows = rows[self.ids["t"][rows] == t]
            if not len(rows):
                raise SparsightError(f"the store {self.folder} has no timestep {t} of the chosen images")
        for shard in self.shards:
            mine = rows[(rows >= start) & (rows < start + shard.maps)] - start
            if len(mine):
                low, high = int(mine.min()), int(mine.max()) + 1
                columns = _columns(self.files.open(shard.file), *names, *scale, low=low, high=high)
                parts.append({name: column[mine - low] for name, column in columns.items()})
            start += shard.maps
        whole = {name: torch.cat([part[name] for part in parts]) for name in (*names, *scale)}
        if "tokens" in names:
            whole["tokens"] = Encoded(whole["tokens"], whole.get("scale") if scale else None).decode()
        return {name: whole[name] for name in names}

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
        rows = self.rows(images)
        return shuffled_batches(lambda: StoreSource(self, memory_mb, rows), batch_size, seed, memory_mb, start)


def maps_in(files: Folder, name: str) -> int:
    """The number of maps in a shard, by its header."""
    return files.open(name).shape("image")[0]


def _columns(file: Tensors, *names: str, low: int = 0, high: int | None = None) -> dict[str, Tensor]:
    for name in names:
        if name not in file.names:
            raise unknown("store column", name, file.names)
    return {name: file.rows(name, low, file.shape(name)[0] if high is None else high) for name in names}


def _is_whole(files: Folder, shard: Shard, verify: bool, damaged: str) -> bool:
    try:
        _check_shard(files, shard, verify)
    except SparsightError as error:
        if damaged == "refuse":
            raise
        warnings.warn(f"left out of the store {files}: {error}", stacklevel=3)
        return False
    return True


def _check_shard(files: Folder, shard: Shard, verify: bool) -> None:
    where = files / shard.file
    if not files.exists(shard.file):
        raise SparsightError(f"the shard {where} is missing")
    size = files.size(shard.file)
    if size != shard.size or maps_in(files, shard.file) != shard.maps:
        raise SparsightError(f"{where} is truncated or corrupt: {size} bytes, {shard.size} were written")
    if verify and files.sha256(shard.file) != shard.sha256:
        raise SparsightError(f"{where} is corrupt: its content differs from what was written")
