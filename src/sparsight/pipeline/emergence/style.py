"""Bring in a style: one latent everywhere, at every stage, beside controls (section 5 and table 5 of the paper)."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sparsight.files import write_json
from sparsight.images import write_sheet
from sparsight.pipeline.emergence import edits
from sparsight.pipeline.emergence.calibrate import calibrated
from sparsight.pipeline.emergence.recipe import EditConfig
from sparsight.pipeline.emergence.run import stream_name
from sparsight.pipeline.emergence.selection import style_latents
from sparsight.steering import ConceptEdit, GlobalEdit, global_edit, stage_window

if TYPE_CHECKING:
    from sparsight.pipeline.emergence.run import EmergenceRun

VALIDATION, TEST = 3_000_000, 4_000_000  # where the numbers of the noise of these images begin
BATCH = 25


def style_stage(run: EmergenceRun) -> None:
    """`style/`: a sheet for each stage, style and method, `plain.png`; `style.json` says what is on them."""
    folder, styles, own = (
        run.own_folder("style", "style"),
        run.recipe.styles or tuple(run.world.styles),
        run.recipe.style,
    )
    plain, validation = drawn(run, TEST, own.test), drawn(run, VALIDATION, own.validation)
    config = calibrated(
        run, "style", own, "middle", lambda c, s, stage: try_strength(run, c, styles, stage, s, validation)
    )
    write_sheet(folder / "plain.png", torch.cat([part.images for part in plain]))
    found: dict[str, Any] = {"styles": list(styles), "images": config.test, "stages": {}}
    for done, stage in enumerate(run.steps_at):
        chosen = edits.once(folder / f"{stage}.json", partial(choose, run, config, styles, stage, validation))
        for place, style in enumerate(styles):
            run.report.update(done * len(styles) + place, 3 * len(styles), f"{stage}, {style}")
            work = partial(paint, run, config, style, stage, chosen["strength"], plain)
            chosen["styles"][style] = edits.once(folder / f"{stage}.{style}.json", work)
        found["stages"][stage] = chosen
    write_json(run.folder / "style.json", {**found, "edit": vars(config)})


def choose(
    run: EmergenceRun, config: EditConfig, styles: tuple[str, ...], stage: str, validation: list[edits.Plain]
) -> dict[str, Any]:
    """The strength of a stage, and what led to it."""
    trials = [try_strength(run, config, styles, stage, s, validation) for s in config.strengths]
    return {"trials": trials, "strength": edits.chosen(trials)["strength"], "styles": {}}


def drawn(run: EmergenceRun, base: int, count: int) -> list[edits.Plain]:
    """`count` unedited images, a few at a time."""
    numbers = edits.numbers_from(run, base, count)
    parts = [numbers[i : i + BATCH] for i in range(0, count, BATCH)]
    return [edits.draw_plain(run, run.world.plain_prompts(part), part) for part in parts]


def editor(
    run: EmergenceRun, config: EditConfig, style: str, stage: str, strength: float
) -> tuple[GlobalEdit | None, str]:
    """The edit that brings a style in, and how its latents were found; None where no latent stands for the style."""
    latents, how = style_latents(run, config, style, stage)
    if not latents:
        return None, how
    sae = run.sae(stream_name(config.site, stage, "cond"), config.k)
    edit = global_edit(
        sae, latents, site=config.site, beta=1.0, normaliser=config.normaliser, scope=config.scope,
        window=stage_window(stage),
    )  # fmt: skip
    at = edits.at_strength(edit, edits.tokens_of(run, config.site, stage), strength)
    assert isinstance(at, GlobalEdit)
    return at, how


def try_strength(
    run: EmergenceRun,
    config: EditConfig,
    styles: tuple[str, ...],
    stage: str,
    strength: float,
    plain: list[edits.Plain],
) -> dict[str, Any]:
    """How often a strength brings validation images nearer to the style's words."""
    hits = []
    for style in styles:
        edit, _ = editor(run, config, style, stage, strength)
        before = torch.cat([part.images for part in plain])
        after = before if edit is None else repaint(run, plain, stage, edit)[0]
        hits.append(nearer(run, before, after, style))
    rate = torch.cat(hits)
    return {"strength": strength, "success": float(rate.mean()), "n": len(rate)}


def nearer(run: EmergenceRun, before: Tensor, after: Tensor, style: str) -> Tensor:
    """1 where an image came nearer to the style's words (appendix E.2): (n,)."""
    return (run.world.similarity(after, style) > run.world.similarity(before, style)).float()


def repaint(run: EmergenceRun, plain: list[edits.Plain], stage: str, edit: ConceptEdit) -> tuple[Tensor, float]:
    """All images edited, and the mean strength that was measured."""
    images, strengths = zip(*(edits.draw_edited(run, part, stage, edit) for part in plain), strict=True)
    return torch.cat(images), sum(strengths) / len(strengths)


def paint(
    run: EmergenceRun, config: EditConfig, style: str, stage: str, strength: float, plain: list[edits.Plain]
) -> dict[str, Any]:
    """Save a style's test images by method, and say how they were made."""
    edit, how = editor(run, config, style, stage, strength)
    facts: dict[str, Any] = {"latents": []}
    images = dict.fromkeys(edits.METHODS, torch.cat([part.images for part in plain]))
    if edit is not None:
        methods = edits.with_controls(edit, edits.tokens_of(run, config.site, stage), run.recipe.seed)
        painted = {name: repaint(run, plain, stage, own) for name, own in methods.items()}
        images = {name: own for name, (own, _) in painted.items()}
        strengths = {name: measured for name, (_, measured) in painted.items()}
        facts = {"latents": list(edit.latents), "found": how, "beta": edit.alpha,
                 "measured_strength": strengths}  # fmt: skip
    for method, own in images.items():
        write_sheet(run.folder / "style" / f"{stage}.{style}.{method}.png", own)
    return facts
