"""Which latents, how many, normaliser, half and k of the edits: tried on validation images before anything is tested.

The paper's table of strengths does not fit its own formulas, it does not say which k it edits with, and it takes every
latent whose entry has the word, however rare the word is there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparsight.files import read_json, write_json
from sparsight.pipeline.emergence.edits import chosen
from sparsight.pipeline.emergence.recipe import EditConfig
from sparsight.steering import NORMALISERS, SCOPES

if TYPE_CHECKING:
    from sparsight.pipeline.emergence.run import EmergenceRun

Attempt = Callable[[EditConfig, float, str], dict[str, Any]]
FOUND: tuple[dict[str, Any], ...] = (
    *({"by": "entries", "share": share, "most": most} for share, most in ((0.0, 0), (0.5, 0), (0.5, 1), (0.5, 3))),
    *({"by": "evidence", "share": 0.0, "most": most} for most in (1, 3, 8)),
)  # how latents are found
CHOSEN = ("by", "share", "most", "normaliser", "scope", "k")
# "norm_over_sum" is "norm_over_mean" over the number of positions: at one strength they are one edit.
DIFFERENT = tuple(name for name in NORMALISERS if name != "norm_over_sum")


def calibrated(run: EmergenceRun, name: str, config: EditConfig, stage: str, attempt: Attempt) -> EditConfig:
    """`config` with what did best at a stage, if the recipe asks for it; every trial is kept in `NAME/trials.json`.

    One choice after the other, each with the best of those before: the latents, the normaliser, the half, k.
    `attempt(config, strength, stage)` says how often an edit succeeds. What was tried before is not tried again. Every
    configuration is then tried at all stages at its own best strength: does the pattern over the stages hang on the choice?
    """
    if not run.recipe.calibrate:
        return config
    trials = Trials(run.folder / name / "trials.json", stage, attempt)
    options: dict[str, Sequence[dict[str, Any]]] = {
        "latents": FOUND, "normaliser": [{"normaliser": name} for name in DIFFERENT],
        "half": [{"scope": name} for name in SCOPES], "k": [{"k": k} for k in run.recipe.k],
    }  # fmt: skip
    for done, (what, values) in enumerate(options.items()):
        run.report.update(done, len(options), f"choosing {what}")
        tried = [replace(config, **value) for value in values]
        config = max(tried, key=lambda one: trials.of(one)["success"])
    trials.at_all(tuple(run.steps_at), config)
    return config


class Trials:
    """What was tried, in a file."""

    def __init__(self, path: Path, stage: str, attempt: Attempt) -> None:
        self.path, self.stage, self.attempt = path, stage, attempt
        self.rows: list[dict[str, Any]] = read_json(path)["rows"] if path.exists() else []

    def of(self, config: EditConfig) -> dict[str, Any]:
        """The best strength of a config, with its success; tried where that has not been done."""
        wanted = {key: getattr(config, key) for key in CHOSEN}
        if known := next((row for row in self.rows if row.items() >= wanted.items()), None):
            return known
        trials = [self.attempt(config, strength, self.stage) for strength in config.strengths]
        self.rows.append({**wanted, "trials": trials, **chosen(trials)})
        write_json(self.path, {"rows": self.rows})
        return self.rows[-1]

    def at_all(self, stages: Sequence[str], config: EditConfig) -> None:
        """Try every configuration at the stages where it was not tried yet, at its best strength."""
        for row in self.rows:
            own = replace(config, **{key: row[key] for key in CHOSEN})
            found = row.setdefault("stages", {self.stage: row["success"]})
            for stage in stages:
                if stage not in found:
                    found[stage] = self.attempt(own, row["strength"], stage)["success"]
                    write_json(self.path, {"rows": self.rows})
