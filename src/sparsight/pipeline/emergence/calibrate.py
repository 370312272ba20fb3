"""Which normaliser, half and k of the edits: every combination on validation images, before anything is tested.

The paper's table of strengths does not fit its own formulas, and it does not say which k it edits with.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING, Any

from sparsight.files import read_json, write_json
from sparsight.pipeline.emergence.edits import chosen
from sparsight.pipeline.emergence.recipe import EditConfig
from sparsight.steering import NORMALISERS, SCOPES

if TYPE_CHECKING:
    from sparsight.pipeline.emergence.run import EmergenceRun

Attempt = Callable[[EditConfig, float], dict[str, Any]]


def calibrated(run: EmergenceRun, name: str, config: EditConfig, attempt: Attempt) -> EditConfig:
    """`config` with the combination that did best, if the recipe asks for it; all of them are kept in `NAME.trials.json`.

    `attempt(config, strength)` says how often an edit succeeds. A combination that was tried before is not tried again.
    """
    if not run.recipe.calibrate:
        return config
    path = run.folder / name / "trials.json"
    rows: list[dict[str, Any]] = read_json(path)["rows"] if path.exists() else []
    # "norm_over_sum" is "norm_over_mean" over the number of positions: at one strength they are one edit.
    normalisers = [n for n in NORMALISERS if n != "norm_over_sum"]
    options = list(product(normalisers, SCOPES, run.recipe.k))
    for done, (normaliser, scope, k) in enumerate(options):
        wanted = {"normaliser": normaliser, "scope": scope, "k": k}
        if not any(row.items() >= wanted.items() for row in rows):
            run.report.update(done, len(options), f"{normaliser}, {scope}, k = {k}")
            own = replace(config, normaliser=normaliser, scope=scope, k=k)
            trials = [attempt(own, strength) for strength in config.strengths]
            rows.append({**wanted, "trials": trials, **chosen(trials)})
            write_json(path, {"rows": rows})
    best = max(rows, key=lambda row: row["success"])
    return replace(config, normaliser=best["normaliser"], scope=best["scope"], k=best["k"])
