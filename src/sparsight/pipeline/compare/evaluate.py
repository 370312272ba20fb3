"""The stage that measures: results.parquet and metrics.json, from the scores of the saved images alone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sparsight.errors import SparsightError
from sparsight.files import write_json
from sparsight.pipeline.compare.cells import Cell
from sparsight.pipeline.compare.extras import entanglement, few_shot, inversion, two_concepts
from sparsight.pipeline.compare.figures import areas, at_choice, curve, limits_of
from sparsight.pipeline.compare.methods import Figures, Stratum, of_concept, of_method
from sparsight.pipeline.compare.orders import metric_orders, stability
from sparsight.pipeline.compare.score import score_cell
from sparsight.pipeline.compare.table import Scored, finished_cells, read_cell, write_results
from sparsight.pipeline.compare.truth import of_truth, true_edits
from sparsight.pipeline.run import versions

if TYPE_CHECKING:
    from sparsight.pipeline.compare.run import CompareRun


def evaluate_stage(run: CompareRun) -> None:
    """Write results.parquet and metrics.json. Raises `SparsightError` where no cell is finished."""
    cells = finished_cells(run)
    if not any(cell.kind == "main" for cell in cells):
        raise SparsightError(
            f"{run.folder} holds no finished cell: {next(iter(run.failures().values()), 'run it first')}"
        )
    for done, cell in enumerate(cells, 1):
        score_cell(run, cell)
        run.report.update(done, len(cells), cell.text)
    write_results(run, cells)
    write_json(run.folder / "metrics.json", metrics(run, cells))


def metrics(run: CompareRun, cells: list[Cell]) -> dict[str, Any]:
    """metrics.json of the finished cells."""
    main = [read_cell(run, cell) for cell in cells if cell.kind == "main"]
    curves, figures, limits = _measured(run, main)
    judge, kinds, truth = run.recipe.judge, run.subject.kinds, true_edits(run)
    true = {c: of_truth(run, [s for s in truth if s.cell.concept == c], limits[judge]) for c in run.concepts}
    return {
        "schema": 1, "experiment": "compare", "seed": run.recipe.seeds[0], "seeds": list(run.recipe.seeds),
        "versions": versions(), "recipe": run.recipe.plain(), "names": dict(run.subject.names),
        "inversion": inversion(run),
        "ours": run.recipe.ours, "words": dict(run.subject.words),
        **of_kind(run, main, curves, figures, run.concepts), "truth": of_truth(run, truth, limits[judge]),
        "kinds": {kind: of_kind(run, main, curves, figures, own) for kind, own in kinds.items()} if len(kinds) > 1 else {},
        "not_applicable": {n: {"title": run.entries[n].title, "why": why} for n, why in run.not_applicable.items()},
        "unfit": {n: dict(by) for n, by in run.unfit.items() if n not in run.not_applicable},
        "failed": run.failures(),
        "concepts": {c: of_concept(run, c, figures[judge], curves[judge]) | {"truth": true[c]} for c in run.concepts},
        "few": few_shot(run, [read_cell(run, c) for c in cells if c.kind == "few"], limits[judge]),
        "two": two_concepts(run, [read_cell(run, c) for c in cells if c.kind == "two"]),
        "entanglement": entanglement(run, main),
    }  # fmt: skip


def of_kind(
    run: CompareRun, main: list[Scored], curves: Figures, figures: Figures, concepts: Sequence[str]
) -> dict[str, Any]:
    """Methods, how stable their order is and which figures order them alike, over some of the concepts."""
    main = [s for s in main if s.cell.concept in concepts]
    names = [n for n in run.entries if n in {s.cell.method for s in main}]
    curves, figures = (
        {judge: {n: {key: one for key, one in by[n].items() if key[1] in concepts} for n in names} for judge, by in all_.items()}
        for all_ in (curves, figures)
    )  # fmt: skip
    judge = run.recipe.judge
    return {
        "methods": {
            n: of_method(run, n, [s for s in main if s.cell.method == n], figures, curves[judge][n], concepts) for n in names
        },
        "stability": stability(figures, names), "orders": metric_orders(figures[judge], names),
    }  # fmt: skip


def _measured(
    run: CompareRun, main: list[Scored]
) -> tuple[Figures, Figures, dict[str, dict[Stratum, dict[str, float]]]]:
    """Curves and figures of every judge, method and stratum, and the damages that areas are taken to."""
    curves: Figures = defaultdict(lambda: defaultdict(dict))
    figures: Figures = defaultdict(lambda: defaultdict(dict))
    limits: dict[str, dict[Stratum, dict[str, float]]] = defaultdict(dict)
    for judge in run.subject.classifiers:
        for one in main:
            curves[judge][one.cell.method][one.cell.seed, one.cell.concept] = curve(one, judge, len(run.recipe.levels))
        for stratum in dict.fromkeys((s.cell.seed, s.cell.concept) for s in main):
            there = [by[stratum] for by in curves[judge].values() if stratum in by]
            limits[judge][stratum] = limits_of(there, run.recipe.levels[-1])
        for one in main:
            stratum = (one.cell.seed, one.cell.concept)
            own = areas(curves[judge][one.cell.method][stratum], limits[judge][stratum])
            figures[judge][one.cell.method][stratum] = {**own, **at_choice(one, judge)}
    return curves, figures, limits
