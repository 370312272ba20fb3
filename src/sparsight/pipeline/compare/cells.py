"""The cells of a comparison: each is one method on one concept with one seed, done once and kept in a folder of its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparsight.baselines.registry import applicable
from sparsight.files import digest, read_json

if TYPE_CHECKING:
    from sparsight.pipeline.compare.run import CompareRun

KINDS = ("main", "few", "two")


@dataclass(frozen=True)
class Cell:
    """What one cell does. `concept` of the kind "two" is "A+B"; `images` is what the kind "few" learns from, else 0."""

    kind: str
    seed: int
    concept: str
    method: str
    images: int = 0

    @property
    def path(self) -> Path:
        """Its folder inside the run's."""
        name = f"{self.method}-{self.images:05d}" if self.kind == "few" else self.method
        return Path("cells") / self.kind / f"seed{self.seed}" / self.concept / name

    @property
    def text(self) -> str:
        """For a progress bar and for errors."""
        few = f", {self.images} images" if self.kind == "few" else ""
        return f"{self.method} on {self.concept}, seed {self.seed}{few}"


def plan(run: CompareRun) -> list[Cell]:
    """Every cell of the methods that apply, the main ones first: those of two concepts need their strengths."""
    able = [name for name in run.entries if name not in run.not_applicable]
    found = [*_main(run, able), *_few(run, able), *_two(run, able)]
    return [c for c in found if not any(name in run.unfit.get(c.method, {}) for name in c.concept.split("+"))]


def _main(run: CompareRun, able: list[str]) -> Iterator[Cell]:
    recipe = run.recipe
    asked = [n for n in able if not recipe.methods or n in recipe.methods or n in recipe.two.methods]
    for seed in recipe.seeds:
        for concept in run.concepts:
            yield from (Cell("main", seed, concept, name) for name in asked)


def _few(run: CompareRun, able: list[str]) -> Iterator[Cell]:
    few = run.recipe.few
    for concept in run.few_concepts:
        for name in (n for n in few.methods if n in able):
            yield from (Cell("few", run.recipe.seeds[0], concept, name, n) for n in few.counts)


def _two(run: CompareRun, able: list[str]) -> Iterator[Cell]:
    two = run.recipe.two
    for pair in run.pairs:
        yield from (Cell("two", run.recipe.seeds[0], pair, name) for name in two.methods if name in able)


def reasons(run: CompareRun) -> dict[str, dict[str, str]]:
    """Why methods that were asked cannot edit concepts: {method: {concept: why}}."""
    found: dict[str, dict[str, str]] = {}
    for concept in run.concepts:
        data = run.subject.data(run.recipe.seeds[0], concept)
        for name, entry in run.entries.items():
            if (why := applicable(entry, data, run.subject.concepts[concept])) is not None:
                found.setdefault(name, {})[concept] = why
    return found


def cell_key(run: CompareRun, cell: Cell) -> str:
    """A digest of what the cell rests on, the method's defaults included; other methods and concepts are no part of it."""
    recipe, entry = run.recipe, run.entries[cell.method]
    own: tuple[float, ...] = ()
    if cell.kind == "few":
        own = (recipe.few.test, cell.images)
    elif cell.kind == "two":
        own = (recipe.two.test, recipe.two.level)
    return digest([
        run.subject.key(cell.seed), cell.seed, cell.kind, cell.concept,
        entry.name, asdict(entry), recipe.levels, recipe.tolerance, recipe.validation, recipe.test, recipe.judge,
        recipe.curves_on, own,
    ])  # fmt: skip


def record(run: CompareRun, cell: Cell) -> dict[str, Any] | None:
    """What a finished cell wrote down, None for one that is not finished for the recipe as it is now."""
    path = run.folder / cell.path / "cell.json"
    if not path.exists():
        return None
    found: dict[str, Any] = read_json(path)
    return found if found["key"] == cell_key(run, cell) else None


def failure(run: CompareRun, cell: Cell) -> str | None:
    """Why a cell failed when it was last tried, None where it did not."""
    path = run.folder / cell.path / "failed.json"
    return str(read_json(path)["error"]) if path.exists() else None


def is_done(run: CompareRun, cell: Cell) -> bool:
    """Whether a cell is finished for the recipe as it is now, and did not fail since."""
    return record(run, cell) is not None and failure(run, cell) is None


def standing(run: CompareRun) -> list[list[str]]:
    """Each cell's path and its state, "done", "failed" or "open": what the stages after the edits depend on."""
    states = []
    for cell in plan(run):
        state = "failed" if failure(run, cell) else "done" if record(run, cell) else "open"
        states.append([str(cell.path), state])
    return states
