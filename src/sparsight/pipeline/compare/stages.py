"""The stages of a comparison, in order."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any

from sparsight.errors import SparsightError
from sparsight.files import write_json
from sparsight.pipeline.compare.cells import KINDS, Cell, is_done, plan
from sparsight.pipeline.compare.edit import edit_cell
from sparsight.pipeline.compare.engine import spread
from sparsight.pipeline.compare.evaluate import evaluate_stage
from sparsight.pipeline.compare.images import groups, invert_group
from sparsight.pipeline.compare.run import CompareRun
from sparsight.pipeline.compare.score import score_cell
from sparsight.pipeline.compare.standing import Standing


def prepare_stage(run: CompareRun) -> None:
    """Store, SAE and what else methods share, for every seed."""
    for seed in run.recipe.seeds:
        run.subject.prepare(seed)


def invert_stage(run: CompareRun) -> None:
    """All images: chosen, inverted where they have to be, and rebuilt. Nothing can be compared where one of them fails."""
    wanted = groups(run)
    for done, (group, error) in enumerate(spread(run, invert_group, wanted), 1):
        if error is not None:
            raise SparsightError(f"the images of {group.concept}, seed {group.seed}, could not be made ready: {error}")
        run.report.update(done, len(wanted), f"{group.concept}, seed {group.seed}")


def edit_stage(run: CompareRun) -> None:
    """Every cell that is not done; one that fails is written down, and the others go on."""
    cells = plan(run)
    standing = Standing(run, cells)
    for kinds in (KINDS[:2], KINDS[2:]):  # two concepts at once use the strengths of each alone
        open_cells = [c for c in cells if c.kind in kinds and not is_done(run, c)]
        for cell, error in spread(run, edit_and_score, open_cells):
            if error is not None:
                _failed(run, cell, error)
            standing.ended(cell, error)


def edit_and_score(run: CompareRun, cell: Cell) -> None:
    """Both halves of a cell; the second reads what the first saved."""
    edit_cell(run, cell)
    score_cell(run, cell)


def _failed(run: CompareRun, cell: Cell, error: str) -> None:
    folder = run.folder / cell.path
    if folder.exists():
        shutil.rmtree(folder)
    write_json(folder / "failed.json", {"error": error, "cell": cell.text})


def report_stage(run: CompareRun) -> None:
    """`report.html`."""
    from sparsight.report import write_report

    write_report(run.folder)


WORK: dict[str, Callable[[Any], None]] = {
    "prepare": prepare_stage, "invert": invert_stage, "edit": edit_stage, "evaluate": evaluate_stage, "report": report_stage,
}  # fmt: skip
