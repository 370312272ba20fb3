"""One cell: fit a method, find its strengths on validation images, edit the test images once at each, save them all."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sparsight.baselines.method import Editor
from sparsight.baselines.registry import fit
from sparsight.errors import SparsightError
from sparsight.files import read_json, write_json
from sparsight.images import write_sheet
from sparsight.pipeline.compare.cells import Cell, cell_key, failure, record
from sparsight.pipeline.compare.faces import Group, Images, edited, load_images
from sparsight.pipeline.compare.strengths import Match, match_levels
from sparsight.pipeline.compare.together import Together
from sparsight.steering import choose_alpha

if TYPE_CHECKING:
    from sparsight.pipeline.compare.run import CompareRun

START = 0.01  # the first strength tried where the paper names none, in the unit that methods on a site share


@dataclass
class Meter:
    """Seconds and rows through the denoiser, by what they were spent on.

    On a processor seconds are those of the process, of all its cores: what else the machine does is not in them.
    """

    seconds: dict[str, float] = field(default_factory=dict)
    calls: dict[str, int] = field(default_factory=dict)

    @contextmanager
    def of(self, model: Any, what: str) -> Iterator[None]:
        """Count what happens within the block."""
        clock = time.process_time if model.device.type == "cpu" else time.monotonic
        rows, began = [0], clock()

        def count(module: Any, arguments: tuple[Any, ...]) -> None:
            rows[0] += len(arguments[0])

        handle = model.denoiser.register_forward_pre_hook(count)
        try:
            yield
        finally:
            handle.remove()
            self.seconds[what] = self.seconds.get(what, 0.0) + clock() - began
            self.calls[what] = self.calls.get(what, 0) + rows[0]


def edit_cell(run: CompareRun, cell: Cell) -> None:
    """Do a cell that is not done; its folder holds `cell.json` only when all of it is there."""
    if record(run, cell) is not None and failure(run, cell) is None:
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
    with meter.of(run.model, "edit"):
        for place, match in enumerate(tuned["matches"]):
            sheet = edited(run, editor, match["strength"], test.noise)
            write_sheet(run.folder / cell.path / f"level{place}.png", finite(sheet))
    images = max(1, len(tuned["matches"])) * len(test.numbers)
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
    data = run.subject.data(cell.seed, cell.images)
    return fit(run.entries[cell.method], run.subject.concepts[concept], data)


def finite(images: Tensor) -> Tensor:
    """The same images. Raises `SparsightError` where a network overflowed."""
    if not torch.isfinite(images).all():
        raise SparsightError("the edit overflows on the test images")
    return images


class Trials:
    """Edits of the validation images, kept by strength."""

    def __init__(self, run: CompareRun, editor: Editor, images: Images) -> None:
        self.run, self.editor, self.images = run, editor, images
        self.edits: dict[float, Tensor] = {}

    @torch.no_grad()
    def distance(self, strength: float) -> float:
        """The mean perceptual distance from the unedited images, NaN where the edit overflows."""
        edit = edited(self.run, self.editor, strength, self.images.noise)
        if not torch.isfinite(edit).all():
            return math.nan
        self.edits[strength] = edit
        return float(self.run.subject.perceptual(self.images.original, edit).mean())


def calibrate(run: CompareRun, editor: Editor, concept: str, validation: Images) -> dict[str, Any]:
    """The strengths for the recipe's levels, and which of them the rule on flips and validity takes.

    Raises `SparsightError` for an editor that changes nothing at any strength.
    """
    trials = Trials(run, editor, validation)
    start = abs(editor.own) if editor.own else START
    matches = match_levels(trials.distance, run.recipe.levels, start, run.recipe.tolerance)
    if not matches:
        raise SparsightError("the edit changes no image at any strength that was tried")
    chosen, met, tried = _choice(run, concept, trials, matches)
    return {"matches": [asdict(m) for m in matches], "chosen": chosen, "met": met, "trials": tried}


def _choice(
    run: CompareRun, concept: str, trials: Trials, matches: Sequence[Match]
) -> tuple[int, bool, list[dict[str, float]]]:
    subject = run.subject
    column = list(subject.attributes).index(str(subject.concepts[concept].attribute))
    judge = subject.classifiers[run.recipe.judge]

    @torch.no_grad()
    def flipped(images: Tensor) -> Tensor:
        return judge(images)[:, column] > 0

    strengths = [match.strength for match in matches]
    choice = choose_alpha(lambda s: trials.edits[s], flipped, subject.valid, strengths)
    tried = [
        {"strength": strength, "flipped": float(flipped(edit).float().mean()), "valid": float(subject.valid(edit).float().mean())}
        for strength, edit in sorted(trials.edits.items())
    ]  # fmt: skip
    return strengths.index(choice.alpha), choice.met, tried


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
            write_sheet(run.folder / cell.path / f"{name}.png", finite(edited(run, editor, strength, test.noise)))  # fmt: skip
    return {"strengths": strengths, "count": len(test.numbers), "calls": meter.calls, "seconds": meter.seconds}


def own_strength(run: CompareRun, cell: Cell, concept: str) -> float:
    """The strength of the method's own cell at the recipe's level for two concepts, or the strongest below it."""
    alone = Cell("main", cell.seed, concept, cell.method)
    if record(run, alone) is None:
        raise SparsightError(f"{alone.text} has no edits, and so no strength to be used with another concept")
    matches = read_json(run.folder / alone.path / "cell.json")["matches"]
    return float(next((m["strength"] for m in matches if m["level"] == run.recipe.two.level), matches[-1]["strength"]))
