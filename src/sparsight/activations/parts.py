"""A store that several processes write, which share a folder and never speak to each other.

Each writes its own units. Beside every shard lies a note with its size, hash and storage error, so that whoever finds all
notes there can write `store.json` without reading a shard. Nobody is appointed to do it: two who finish together write
the same file, and a name changes hands whole or not at all, so that nothing is locked.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sparsight.activations.spec import Index, Shard, StoreSpec
from sparsight.activations.store import maps_in
from sparsight.activations.unit import Unit
from sparsight.activations.writer import StoreWriter, note_name, remove_notes, shard_name
from sparsight.errors import SparsightError


class PartWriter(StoreWriter):
    """A writer of some units of a store. `plan` says how the images are cut into units; `units` is their number.

    Raises `SparsightError` for a folder that another plan has begun to fill.
    """

    def __init__(self, folder: Path | str, spec: StoreSpec, units: int, plan: str) -> None:
        super().__init__(folder, spec)
        self.units, self.plan = units, plan

    def has(self, unit: int) -> bool:
        """Whether this unit is whole, with all that the index will say of it."""
        return super().has(unit) and (self._note(unit) is not None or str(unit) in self.errors)

    def publish(self, unit: int, rows: Unit) -> None:
        """Write a shard, then its note; `store.json` belongs to all and is left alone."""
        self.files.save(shard_name(unit), {name: column.contiguous() for name, column in rows.columns.items()})
        said = {"plan": self.plan, "shard": self._measure(unit)._asdict(), "error": rows.spread.sums()}
        self.files.write_json(note_name(unit), said)

    def finish_if_whole(self) -> bool:
        """Mark the store as finished if every unit of every process is there; whether it is finished."""
        try:
            if not self._is_finished():
                self._merge()
        except SparsightError:  # perhaps another process has just finished it and taken away a note that was being read
            if not self._is_finished():
                raise
        if not self._is_finished():
            return False
        remove_notes(self.files)
        return True

    def _is_finished(self) -> bool:
        return Index.read(self.files).finished

    def _merge(self) -> None:
        """Write the index, unless a unit is missing. One process alone leaves no notes but its errors are in the index."""
        notes = [self._note(unit) for unit in range(self.units)]
        if not all(
            note or (str(unit) in self.errors and StoreWriter.has(self, unit)) for unit, note in enumerate(notes)
        ):
            return
        shards = [Shard(**note["shard"]) if note else self._measure(unit) for unit, note in enumerate(notes)]
        errors = {str(unit): note["error"] if note else self.errors[str(unit)] for unit, note in enumerate(notes)}
        Index.of(self.spec, shards, True, errors).write(self.files)

    def _note(self, unit: int) -> dict[str, Any] | None:
        if not self.files.exists(note_name(unit)):
            return None
        note = self.files.read_json(note_name(unit))
        if note["plan"] != self.plan:
            raise SparsightError(f"{self.files} is being filled with other images or another batch size: use those")
        return note

    def _measure(self, unit: int) -> Shard:
        name = shard_name(unit)
        return Shard(name, maps_in(self.files, name), self.files.size(name), self.files.sha256(name))
