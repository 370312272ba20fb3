"""One cell: fit a method, find its strengths on validation images, edit the test images once at each, save them all."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sparsight.baselines.method import Editor
from sparsight.baselines.registry import fit
from sparsight.errors import SparsightError
from sparsight.files import read_json, write_json
from sparsight.images import write_sheet
from sparsight.pipeline.compare.calibrate import calibrate
from sparsight.pipeline.compare.cells import Cell, cell_key, is_done, record
from sparsight.pipeline.compare.images import Group, edited, load_images
from sparsight.pipeline.compare.meter import Meter
from sparsight.pipeline.compare.together import Together

if TYPE_CHECKING:
    from sparsight.pipeline.compare.run import CompareRun


def edit_cell(run: CompareRun, cell: Cell) -> None:
    """Do a cell that is not done; its folder holds `cell.json` only when all of it is there."""
    if is_done(run, cell):
        return
    folder = run.folder / cell.path
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    found = _two(run, cell) if cell.kind == "two" else _alone(run, cell)
    write_json(folder / "cell.json", {"key": cell_key(run, cell), **asdict(cell), **found})


def _alone(run: CompareRun, cell: Cell) -> dict[str, Any]:
    group, meter = Group(cell.seed, cell.concept), Meter()
    test, validation = load_images(run, group, "test"), load_images(run, group, "validation")
    if cell.kind == "few":
        test = test.first(run.recipe.few.test)
    with meter.of(run.model, "fit"):
        editor = fitted(run, cell, cell.concept)
    with meter.of(run.model, "search"):
        tuned = calibrate(run, editor, cell.concept, validation)
    drawn: dict[float, Tensor] = {}  # an edit that cannot be weak has one strength for several levels
    with meter.of(run.model, "edit"):
        for place, match in enumerate(tuned["matches"]):
            strength = match["strength"]
            if strength not in drawn:
                drawn[strength] = finite(edited(run, editor, strength, test.noise, test.told))
            write_sheet(run.folder / cell.path / f"level{place}.png", drawn[strength])
    images = max(1, len(drawn)) * len(test.numbers)
    calls = {**meter.calls, "each": meter.calls["edit"] / images}
    seconds = {**meter.seconds, "each": meter.seconds["edit"] / images}
    return {
        **tuned,
        "unit": editor.unit,
        "own": editor.own,
        "count": len(test.numbers),
        "calls": calls,
        "seconds": seconds,
    }


def fitted(run: CompareRun, cell: Cell, concept: str) -> Editor:
    """The cell's method, fitted to a concept."""
    data = run.subject.data(cell.seed, concept, cell.images)
    return fit(run.entries[cell.method], run.subject.concepts[concept], data)


def finite(images: Tensor) -> Tensor:
    """The same images. Raises `SparsightError` where a network overflowed."""
    if not torch.isfinite(images).all():
        raise SparsightError("the edit overflows on the test images")
    return images


def _two(run: CompareRun, cell: Cell) -> dict[str, Any]:
    """Each of two concepts alone and both at once, on faces that lack both."""
    names, meter = cell.concept.split("+"), Meter()
    test = load_images(run, Group(cell.seed, cell.concept), "test")
    strengths = [own_strength(run, cell, name) for name in names]
    with meter.of(run.model, "fit"):
        editors = [fitted(run, cell, name) for name in names]
    both = Together(tuple(zip(editors, strengths, strict=True)))
    with meter.of(run.model, "edit"):
        for name, editor, strength in (
            ("first", editors[0], strengths[0]),
            ("second", editors[1], strengths[1]),
            ("both", both, 1.0),
        ):
            sheet = edited(run, editor, strength, test.noise, test.told)
            write_sheet(run.folder / cell.path / f"{name}.png", finite(sheet))
    return {"strengths": strengths, "count": len(test.numbers), "calls": meter.calls, "seconds": meter.seconds}


def own_strength(run: CompareRun, cell: Cell, concept: str) -> float:
    """The strength of the method's own cell at the recipe's level for two concepts, or the strongest below it."""
    alone = Cell("main", cell.seed, concept, cell.method)
    if record(run, alone) is None:
        raise SparsightError(f"{alone.text} has no edits, and so no strength to be used with another concept")
    matches = read_json(run.folder / alone.path / "cell.json")["matches"]
    return float(next((m["strength"] for m in matches if m["level"] == run.recipe.two.level), matches[-1]["strength"]))
