"""Encoded maps in memory: the rows of one shard, or of one buffer of a live store, filled as they come."""

from __future__ import annotations

import torch
from torch import Tensor

from sparsight.activations.encoding import DTYPES, Encoded, Spread, encode, kept_positions
from sparsight.activations.shuffle import Buffer
from sparsight.activations.spec import StoreSpec
from sparsight.errors import SparsightError


class Unit:
    """Maps that are encoded as they come, so that they are held in their storage type only."""

    def __init__(self, spec: StoreSpec, maps: int, measure: bool = True) -> None:
        self.spec, self.filled, self.measure, self.spread = spec, 0, measure, Spread(spec.channels)
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
        if self.measure:
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

    def buffer(self) -> Buffer:
        """Its tokens for reading, without a copy."""
        c = self.columns
        return Buffer(Encoded(c["tokens"], c.get("scale")), c["image"], c["t"], c.get("position"))


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
