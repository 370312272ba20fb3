"""Draw many edited images at little cost: what comes before an edit is drawn once, and strengths are made comparable."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sparsight.diffusion import Intervention, Loop, walk
from sparsight.errors import SparsightError
from sparsight.files import read_json, write_json
from sparsight.pipeline.emergence.saes import by_stamp
from sparsight.steering import CONCEPT_CONTROLS, ConceptEdit, concept_controls, stage_window
from sparsight.steering.concept_edit import normalised

if TYPE_CHECKING:
    from sparsight.pipeline.emergence.run import EmergenceRun

METHODS = ("concept", *CONCEPT_CONTROLS)


@dataclass
class Plain:
    """Unedited drawings of prompts: the images, and the state at the first step of each stage."""

    prompts: list[str]
    images: Tensor
    states: dict[str, Tensor]

    def repeated(self, times: int) -> Plain:
        """All of them in order, `times` times over: for as many edits at once."""
        states = {stage: x.repeat(times, 1, 1, 1) for stage, x in self.states.items()}
        return Plain(self.prompts * times, self.images.repeat(times, 1, 1, 1), states)


@torch.no_grad()
def draw_plain(run: EmergenceRun, prompts: list[str], numbers: list[int]) -> Plain:
    """Draw prompts without an edit, from the noise of these numbers."""
    x, states = run.noise(numbers), {}
    begins = {first_step(run, stage): stage for stage in run.steps_at}
    for moment in walk(run.model, x, loop(run), conditioning=run.told(prompts)):
        if moment.index in begins:
            states[begins[moment.index]] = moment.x_t
        x = moment.x_next
    return Plain(prompts, run.model.decode(x).float().clamp(-1, 1), states)


@torch.no_grad()
def draw_edited(run: EmergenceRun, plain: Plain, stage: str, edit: Intervention) -> tuple[Tensor, float]:
    """The images edited from `stage` on, and the mean strength ‖shift‖ / ‖h‖ of the half with the prompt."""
    x, strengths = plain.states[stage], []
    moments = walk(run.model, x, loop(run), conditioning=run.told(plain.prompts), interventions=[edit],
                   start=first_step(run, stage))  # fmt: skip
    for moment in moments:
        x = moment.x_next
        if moment.edits is not None:
            strengths.append(moment.edits.mean(edit.site, "cond"))
    return run.model.decode(x).float().clamp(-1, 1), sum(strengths) / max(1, len(strengths))


def numbers_from(run: EmergenceRun, base: int, count: int) -> list[int]:
    """`count` numbers of prompts and noise from `base` on, others for every seed: pooled runs must not repeat a prompt."""
    start = base + 100_000 * (run.recipe.seed % 10)
    return list(range(start, start + count))


def loop(run: EmergenceRun) -> Loop:
    """How the run's images are drawn."""
    return Loop(run.recipe.sampling.steps, mode="plain")


def first_step(run: EmergenceRun, stage: str) -> int:
    """The first step whose timestep lies in a stage's window."""
    window = stage_window(stage)
    return next(i for i, (t, _) in enumerate(run.model.pairs(run.recipe.sampling.steps)) if t in window)


def tokens_of(run: EmergenceRun, site: str, stage: str, images: int = 64) -> Tensor:
    """Tokens (images, positions, C) of a site at the step that a stage is read at, from prompts of the SAEs' training."""
    from sparsight.pipeline.emergence.run import stream_name

    (tokens,) = by_stamp(run.store(stream_name(site, stage, "cond")), run.numbers("train")[:images]).values()
    return tokens


@torch.no_grad()
def at_strength(edit: ConceptEdit, tokens: Tensor, strength: float) -> ConceptEdit:
    """The edit with the beta at which the mean norm of its push is `strength` mean norms of the tokens (M, N, C)."""
    assert edit.directions is not None
    norms = edit.read(tokens, None).norms if edit.normaliser != "none" else tokens.new_ones(tokens.shape[:-1])
    push = normalised(norms, edit.normaliser).mean() * edit.directions.sum(0).norm()
    if not float(push):
        raise SparsightError(f"an edit at {edit.site} pushes nothing: its latents never fire")
    return replace(edit, alpha=float(strength * tokens.norm(dim=-1).mean() / push))


def with_controls(edit: ConceptEdit, tokens: Tensor, seed: int) -> dict[str, ConceptEdit]:
    """The edit and its controls of the same mean shift, by name."""
    return {"concept": edit, **concept_controls(edit, tokens, seed=seed)}


def chosen(trials: Sequence[dict[str, Any]], keep: float = 0.95) -> dict[str, Any]:
    """The weakest strength whose success on the validation images is at least `keep` of the best one's."""
    best = max(trial["success"] for trial in trials)
    return next(t for t in sorted(trials, key=lambda t: t["strength"]) if t["success"] >= keep * best)


def once(path: Path, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `work` says, kept at `path`: a part of a stage that is done is not done again."""
    if not path.exists():
        write_json(path, work())
    found: dict[str, Any] = read_json(path)
    return found
