"""The scores of cells, read back as arrays: one row an image, one column a strength."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sparsight.files import atomic, read_json
from sparsight.metrics.arrays import Numbers
from sparsight.pipeline.compare.cells import Cell, is_done, plan

if TYPE_CHECKING:
    from sparsight.pipeline.compare.run import CompareRun


@dataclass(frozen=True)
class Scored:
    """A finished cell: `facts` is its record, `columns` are (n, sheets) by judge and figure."""

    cell: Cell
    facts: dict[str, Any]
    columns: dict[str, dict[str, Numbers]]

    @property
    def chosen(self) -> int:
        """The sheet whose strength the rule took on validation images."""
        return int(self.facts["chosen"])


def finished_cells(run: CompareRun) -> list[Cell]:
    """Every cell that is done."""
    return [c for c in plan(run) if is_done(run, c)]


def read_cell(run: CompareRun, cell: Cell) -> Scored:
    """The scores of one cell."""
    folder = run.folder / cell.path
    return Scored(cell, read_json(folder / "cell.json"), read_rows(folder / "scores.parquet"))


def read_rows(path: Path) -> dict[str, dict[str, Numbers]]:
    """Rows of one group of images as arrays (n, sheets), by judge and figure."""
    import pyarrow.parquet as pq

    table: dict[str, list[Any]] = pq.read_table(path).to_pydict()
    judges, sheets = (list(dict.fromkeys(table[name])) for name in ("judge", "sheet"))
    told = ("kind", "seed", "concept", "method", "learned", "sheet", "level", "strength", "image", "judge")
    judge, sheet = np.array(table["judge"]), np.array(table["sheet"])
    rows = {(j, s): np.flatnonzero((judge == j) & (sheet == s)) for j in judges for s in sheets}
    found: dict[str, dict[str, Numbers]] = {j: {} for j in judges}
    for name in (n for n in table if n not in told):
        values = np.array(table[name], dtype=np.float64)
        for j in judges:
            found[j][name] = np.stack([values[rows[j, s]] for s in sheets], axis=1)
    return found


def write_results(run: CompareRun, cells: Iterable[Cell]) -> Path:
    """All cells' rows in one file, `results.parquet`; the columns are explained in docs/comparison.md."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = run.folder / "results.parquet"
    tables = [pq.read_table(run.folder / cell.path / "scores.parquet") for cell in cells]
    with atomic(path) as temporary:
        pq.write_table(pa.concat_tables(tables, promote_options="permissive"), temporary, compression="zstd")
    return path
