"""What stands beside the curves: inversion, few-shot curves, two concepts at once, and what moves with what."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from sparsight.files import read_json
from sparsight.metrics import bootstrap, row_mean
from sparsight.pipeline.compare.figures import areas, curve, drawn, interval, pooled
from sparsight.pipeline.compare.table import Scored

if TYPE_CHECKING:
    from sparsight.pipeline.compare.run import CompareRun


def inversion(run: CompareRun) -> dict[str, Any]:
    """PSNR and attribute agreement of the rebuilt test images with the images themselves: to be read before any edit.

    Without figures where the model drew the images itself.
    """
    found = [
        read_json(run.folder / "images" / f"seed{seed}" / concept / "test" / "images.json")
        for seed in run.recipe.seeds for concept in run.concepts
    ]  # fmt: skip
    if not found[0]["psnr"]:
        return {"psnr": None, "worst_psnr": None, "agreement": {}}
    psnr = np.concatenate([one["psnr"] for one in found])
    agree = {judge: np.concatenate([one["agreement"][judge] for one in found]) for judge in found[0]["agreement"]}
    return {
        "psnr": bootstrap(row_mean, psnr, seed=0).to_dict(), "worst_psnr": float(psnr.min()),
        "agreement": {judge: bootstrap(row_mean, values, seed=0).to_dict() for judge, values in agree.items()},
    }  # fmt: skip


def few_shot(run: CompareRun, scored: list[Scored], limits: Mapping[Any, Mapping[str, float]]) -> dict[str, Any]:
    """AUC by method and by how many images it learned from: {method: {n: interval}}, the mean over concepts."""
    found: dict[str, dict[str, Any]] = {}
    for name in dict.fromkeys(s.cell.method for s in scored):
        own = [s for s in scored if s.cell.method == name]
        found[name] = {}
        for count in sorted({s.cell.images for s in own}):
            parts = [s for s in own if s.cell.images == count]
            heights = [_auc(run, s, limits) for s in parts]
            found[name][str(count)] = {
                **interval(pooled(heights), sum(s.facts["count"] for s in parts)), "concepts": len(parts),
            }  # fmt: skip
    return found


def _auc(run: CompareRun, scored: Scored, limits: Mapping[Any, Mapping[str, float]]) -> Any:
    bent = curve(scored, run.recipe.judge, len(run.recipe.levels))
    limit = limits.get((scored.cell.seed, scored.cell.concept), {"distance": run.recipe.levels[-1]})
    return areas(bent, limit)["auc"]


def two_concepts(run: CompareRun, scored: list[Scored]) -> dict[str, Any]:
    """Of faces that lack both concepts, the share that has each alone, each within both, and both: {pair: {method: ...}}."""
    found: dict[str, dict[str, Any]] = {}
    for one in scored:
        columns = one.columns[run.recipe.judge]
        first, second, both = 0, 1, 2  # the order in which the sheets were saved
        on = {
            "first_alone": columns["on"][:, first], "second_alone": columns["second_on"][:, second],
            "first": columns["on"][:, both], "second": columns["second_on"][:, both],
            "both": columns["on"][:, both] * columns["second_on"][:, both],
        }  # fmt: skip
        weights = drawn(one.cell.seed, one.cell.concept, len(columns["on"]))
        record = {name: interval(weights @ values, len(values)) for name, values in on.items()}
        record["distance"] = interval(weights @ columns["distance"][:, both], len(columns["on"]))
        found.setdefault(one.cell.concept, {})[one.cell.method] = record
    return found


def entanglement(run: CompareRun, main: list[Scored]) -> dict[str, Any]:
    """The mean change of every attribute's logit for each concept, at the level nearest to the middle, mean over seeds."""
    level = (
        run.recipe.two.level
        if run.recipe.two.level in run.recipe.levels
        else run.recipe.levels[len(run.recipe.levels) // 2]
    )
    found: dict[str, dict[str, list[list[float]]]] = {}
    for one in main:
        places = [i for i, m in enumerate(one.facts["matches"]) if m["reached"] and m["level"] == level]
        if places:
            changes = read_json(run.folder / one.cell.path / "changes.json")[f"level{places[0]}"][run.recipe.judge]
            found.setdefault(one.cell.method, {}).setdefault(one.cell.concept, []).append(changes)
    known, shown = list(run.subject.attributes), list(run.subject.shown)
    columns = [known.index(name) for name in shown]
    means = {n: {c: np.mean(rows, axis=0)[columns].tolist() for c, rows in by.items()} for n, by in found.items()}
    related = {c: list(run.subject.related(str(run.subject.concepts[c].attribute))) for c in run.concepts}
    return {"level": level, "attributes": shown, "related": related, "methods": means}
