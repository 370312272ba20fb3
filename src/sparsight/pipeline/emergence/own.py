"""Edit the image of one's own prompt with what a run has learned: words moved to places, styles brought in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sparsight.diffusion import DiffusionModel, Intervention
from sparsight.diffusion import generate as draw
from sparsight.diffusion.sampling import Moment
from sparsight.diffusion.sites import Step
from sparsight.errors import SparsightError
from sparsight.pipeline.emergence.asked import Move, Style
from sparsight.pipeline.emergence.own_edits import edit_of, parts_of
from sparsight.pipeline.emergence.run import EmergenceRun
from sparsight.steering import ConceptEdit, edit_together


@dataclass
class Part:
    """What one edit did at one stage.

    `found` says where its latents are from; `strengths` are the measured ‖shift‖ / ‖tokens‖ of its steps by half of
    guidance, empty where it did nothing.
    """

    asked: Move | Style
    stage: str
    edit: ConceptEdit
    found: str
    strengths: dict[str, list[float]] = field(default_factory=dict)

    def measured(self, half: str) -> float:
        """The mean strength over the steps of a half, "cond" or "uncond"; 0 where nothing was done."""
        values = self.strengths.get(half, [])
        return sum(values) / len(values) if values else 0.0

    def __str__(self) -> str:
        latents = ", ".join(map(str, self.edit.latents))
        ratios = ", ".join(f"{half} {self.measured(half):.2f}" for half in ("cond", "uncond"))
        how = "" if self.found == "its own entry" else f" ({self.found})"
        return f"{self.asked}, {self.stage}: latents {latents}{how}; beta {self.edit.alpha:.3g}; |shift|/|h| {ratios}"


@dataclass
class Edited:
    """An image before and after, each (1, 3, H, W) in [-1, 1], and what was done to it."""

    before: Tensor
    after: Tensor
    parts: list[Part]


class Measured:
    """Edits of one site that act at once, each measured alone. They read the unedited tokens, as `edit_together` says."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self.parts, self.together = list(parts), edit_together([part.edit for part in parts])
        self.site = self.together.site

    def active(self, t: int) -> bool:
        """Whether any of them acts at timestep `t`."""
        return self.together.active(t)

    def __call__(self, tokens: Tensor, step: Step) -> Tensor:
        """Tokens (B, N, C) plus the changes of those that act now."""
        assert isinstance(step.t, int)
        for part in self.parts:
            if part.edit.active(step.t):
                note(part, tokens, step)
        return self.together(tokens, step)


def note(part: Part, tokens: Tensor, step: Step) -> None:
    """Keep how strong one edit of tokens (B, N, C) is on each half; a half out of its scope is not touched."""
    for half in step.halves or ("cond",):
        rows = tokens[step.rows(half)]
        touched = half == "cond" or part.edit.scope == "both"
        shift = part.edit.change(rows, step.t) if touched else torch.zeros_like(rows)
        part.strengths.setdefault(half, []).append(float(shift.norm() / rows.float().norm().clamp_min(1e-12)))


def open_run(folder: str | Path, model: str | None = None) -> EmergenceRun:
    """The emergence run in `folder`, with another model in place of its own where one is named.

    Raises `SparsightError` for a folder without such a run; whether the model is the run's is asked when it is used.
    """
    run = EmergenceRun.open_own(folder)
    if model is not None:
        loaded = DiffusionModel.load(model)
        loaded.precision = run.recipe.precision
        run.model = loaded
    return run


@torch.no_grad()
def edit_prompt(
    run: EmergenceRun, prompt: str, moves: Sequence[Move] = (), styles: Sequence[Style] = (),
    window: tuple[float, float] | None = None, seed: int = 0, *, steps: int | None = None,
    guidance: float | None = None, negative: str = "", progress: Callable[[Moment, int], None] | None = None,
) -> Edited:  # fmt: skip
    """The image of `prompt` without and with the edits, from the noise of `seed`.

    `window` (low, high) is in fractions of t, 0 the image and 1 noise; by default moves act in the early stage and styles
    in the middle one. A window over several stages edits each with that stage's own SAE. `steps` and `guidance` are the
    run's unless given. `progress(moment, image)` hears every step of image 0 (unedited) and 1. Everything that can be
    wrong is a `SparsightError` before anything is drawn: words, places, strengths, windows, models, missing parts.
    """
    steps = run.recipe.sampling.steps if steps is None else steps
    guidance = run.recipe.sampling.guidance if guidance is None else guidance
    wishes: list[Move | Style] = [*moves, *styles]
    parts = [part for asked in wishes for part in planned(run, asked, window, steps)]
    if not parts:
        raise SparsightError("nothing is asked for: give a move or a style at least")

    def image(number: int, interventions: Sequence[Intervention]) -> Tensor:
        heard: Any = None if progress is None else lambda moment: progress(moment, number)
        return draw(run.model, prompt, seed=seed, steps=steps, guidance=guidance, negative=negative,
                    interventions=interventions, progress=heard)  # fmt: skip

    return Edited(image(0, []), image(1, by_site(parts)), parts)


def planned(run: EmergenceRun, asked: Move | Style, window: tuple[float, float] | None, steps: int) -> list[Part]:
    """The edits that a wish comes to, one for each stage that it acts in."""
    stages = parts_of(run, asked, window, steps)
    made = [edit_of(run, asked, stage) for stage, _ in stages]
    return [
        Part(asked, stage, replace(edit, window=when), found)
        for (stage, when), (edit, found) in zip(stages, made, strict=True)
    ]


def by_site(parts: Sequence[Part]) -> list[Intervention]:
    """One intervention for each site: edits in a list would read what the one before has left."""
    sites = dict.fromkeys(part.edit.site for part in parts)
    return [Measured([part for part in parts if part.edit.site == site]) for site in sites]
