"""Move objects: every object to every quadrant, at every stage, beside controls (section 5 and table 4 of the paper)."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sparsight.files import write_json
from sparsight.images import write_sheet
from sparsight.metrics import QUADRANTS, quadrant_region, quadrant_success
from sparsight.pipeline.emergence import edits
from sparsight.pipeline.emergence.calibrate import calibrated
from sparsight.pipeline.emergence.recipe import EditConfig
from sparsight.pipeline.emergence.run import stream_name
from sparsight.pipeline.emergence.selection import object_latents
from sparsight.steering import SpatialEdit, spatial_edit, stage_window

if TYPE_CHECKING:
    from sparsight.pipeline.emergence.run import EmergenceRun

VALIDATION, TEST = 1_000_000, 2_000_000  # where the numbers of the noise of these images begin
Drawn = dict[str, edits.Plain]  # unedited images of each kind


def layout_stage(run: EmergenceRun) -> None:
    """`layout/`: a sheet of images for each stage and method, `plain.png`; `layout.json` says what is on them."""
    folder, objects = run.own_folder("layout", "layout"), run.recipe.objects or tuple(run.world.kinds)
    validation = {kind: drawn(run, kind, VALIDATION, run.recipe.layout.validation) for kind in objects}
    config = calibrated(
        run, "layout", run.recipe.layout, "early", lambda c, s, stage: try_strength(run, c, stage, s, validation)
    )
    test = {kind: drawn(run, kind, TEST, config.test) for kind in objects}
    write_sheet(folder / "plain.png", torch.cat([one.images for one in test.values()]))
    stages = {
        stage: edits.once(folder / f"{stage}.json", partial(one_stage, run, config, stage, validation, test))
        for stage in run.steps_at
    }
    found = {"objects": list(objects), "quadrants": list(QUADRANTS), "seeds": config.test, "stages": stages}
    write_json(run.folder / "layout.json", {**found, "edit": vars(config)})


def one_stage(run: EmergenceRun, config: EditConfig, stage: str, validation: Drawn, test: Drawn) -> dict[str, Any]:
    """Choose a stage's strength on validation images, move every object of the test images with it, save the sheets."""
    trials = [try_strength(run, config, stage, s, validation) for s in config.strengths]
    choice, objects = edits.chosen(trials), {}
    sheets: dict[str, list[Tensor]] = {method: [] for method in edits.METHODS}
    done = list(run.steps_at).index(stage) * len(test)
    for place, (kind, own) in enumerate(test.items()):
        run.report.update(done + place, 3 * len(test), f"{stage}, {kind}")
        objects[kind], images = move(run, config, kind, stage, choice["strength"], own)
        for method, parts in sheets.items():
            parts.append(images[method])
    for method, parts in sheets.items():
        write_sheet(run.folder / "layout" / f"{stage}.{method}.png", torch.cat(parts))
    return {"trials": trials, "strength": choice["strength"], "objects": objects}


def drawn(run: EmergenceRun, kind: str, base: int, count: int) -> edits.Plain:
    """`count` unedited images with one object each."""
    numbers = edits.numbers_from(run, base + 1000 * list(run.world.kinds).index(kind), count)
    return edits.draw_plain(run, [run.world.prompt_for(kind, n) for n in numbers], numbers)


def editor(
    run: EmergenceRun, config: EditConfig, kind: str, stage: str, strength: float, count: int
) -> SpatialEdit | None:
    """The edit that puts a kind into each quadrant, `count` images of each; None where no latent stands for the kind."""
    latents = object_latents(run, config, kind, stage)
    if not latents:
        return None
    sae = run.sae(stream_name(config.site, stage, "cond"), config.k)
    grid = run.model.site(config.site).grid
    region = torch.cat([quadrant_region(q, grid).expand(count, *grid) for q in QUADRANTS])
    edit = spatial_edit(
        sae, latents, region, site=config.site, beta=1.0, normaliser=config.normaliser, scope=config.scope,
        window=stage_window(stage),
    )  # fmt: skip
    found = edits.at_strength(edit, edits.tokens_of(run, config.site, stage), strength)
    assert isinstance(found, SpatialEdit)
    return found


def try_strength(
    run: EmergenceRun, config: EditConfig, stage: str, strength: float, validation: Drawn
) -> dict[str, Any]:
    """How often a strength puts objects of validation images where they are asked to go."""
    hits = []
    for kind, own in validation.items():
        edit, plain = editor(run, config, kind, stage, strength, len(own.prompts)), own.repeated(len(QUADRANTS))
        images = plain.images if edit is None else edits.draw_edited(run, plain, stage, edit)[0]
        hits.append(success(run, images, kind, len(own.prompts)))
    rate = torch.cat(hits)
    return {"strength": strength, "success": float(rate.mean()), "n": len(rate)}


def success(run: EmergenceRun, images: Tensor, kind: str, count: int) -> Tensor:
    """1 where the kind's centre lies in the quadrant that was asked for, for `count` images of each quadrant."""
    where = run.world.localise(images, kind)
    return torch.cat([quadrant_success(part, q) for part, q in zip(where.split(count), QUADRANTS, strict=True)])


def move(
    run: EmergenceRun, config: EditConfig, kind: str, stage: str, strength: float, plain: edits.Plain
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A kind's test images by method, quadrant by quadrant, and how they were made."""
    edit, plain = editor(run, config, kind, stage, strength, config.test), plain.repeated(len(QUADRANTS))
    if edit is None:
        return {"latents": []}, dict.fromkeys(edits.METHODS, plain.images)
    assert edit.region is not None
    quarter = edit.region[:: config.test]
    sample = edits.tokens_of(run, config.site, stage, len(quarter))
    methods = edits.with_controls(replace(edit, region=quarter), sample, run.recipe.seed)
    images, strengths = {}, {}
    for name, own in methods.items():
        assert isinstance(own, SpatialEdit)
        placed = replace(own, region=edit.region)
        images[name], strengths[name] = edits.draw_edited(run, plain, stage, placed)
    return {"latents": list(edit.latents), "beta": edit.alpha, "measured_strength": strengths}, images
