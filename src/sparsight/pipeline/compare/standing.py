"""How far the cells are, in one line of the progress display."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sparsight.pipeline.compare.cells import Cell, is_done

if TYPE_CHECKING:
    from sparsight.pipeline.compare.run import CompareRun


class Standing:
    """Counts cells as they end."""

    def __init__(self, run: CompareRun, cells: Sequence[Cell]) -> None:
        self.run, self.total, self.failed = run, len(cells), 0
        self.done = sum(is_done(run, c) for c in cells)
        self._say("")

    def ended(self, cell: Cell, error: str | None) -> None:
        """One more cell has ended, well or with an error."""
        self.done += 1
        self.failed += error is not None
        self._say(f" · {cell.text}" + (f" FAILED: {error}" if error else ""))

    def _say(self, text: str) -> None:
        failed = f", {self.failed} failed" if self.failed else ""
        none = f", {len(self.run.not_applicable)} methods not applicable" if self.run.not_applicable else ""
        self.run.report.update(self.done, self.total, f"{self.done}/{self.total} cells{failed}{none}{text}")
