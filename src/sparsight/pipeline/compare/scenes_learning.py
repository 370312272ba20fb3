"""What methods learn from on the world `scenes`, out of the emergence run of a seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sparsight.baselines.data import FitData
from sparsight.baselines.regions import masks_by
from sparsight.concepts.concept import Concept
from sparsight.errors import SparsightError
from sparsight.metrics import quadrant_success
from sparsight.pipeline.emergence.dictionaries import images_of, objects_of
from sparsight.pipeline.emergence.recipe import EditConfig, EmergenceRecipe
from sparsight.pipeline.emergence.run import EmergenceRun, stream_name
from sparsight.pipeline.emergence.selection import object_latents, style_latents
from sparsight.pipeline.recipe import load_recipe
from sparsight.steering import stage_window

if TYPE_CHECKING:
    from sparsight.pipeline.compare.run import CompareRun
    from sparsight.pipeline.compare.scenes import ScenesSubject

LAYOUT, STYLE = "layout", "style"
NEEDED = ("harvest", "annotate", "train", "dictionary")


def emergence_runs(run: CompareRun) -> dict[int, EmergenceRun]:
    """The emergence run of each seed: in the folder `seedN`, or those of `emergence.runs`, which are only read."""
    recipe, source = run.recipe, run.recipe.emergence
    if source.runs and len(source.runs) != len(recipe.seeds):
        raise SparsightError(
            f"emergence.runs must name one run for each seed: {len(source.runs)} for {len(recipe.seeds)}"
        )
    found: dict[int, EmergenceRun] = {}
    for place, seed in enumerate(recipe.seeds):
        made = _serving(run, source.runs[place], seed) if source.runs else _own(run, seed)
        found[seed] = made
        if place:  # networks are the same for all seeds, and loaded once
            first = found[recipe.seeds[0]]
            made.world, made.model = first.world, first.model
    return found


def _own(run: CompareRun, seed: int) -> EmergenceRun:
    recipe, source = run.recipe, run.recipe.emergence
    kind = load_recipe(source.recipe)
    if not isinstance(kind, EmergenceRecipe):
        raise SparsightError(
            f"emergence.recipe must be one of the emergence experiment, and {source.recipe} is one of {kind.experiment}"
        )
    keys = [
        *source.set,
        f"seed={seed}",
        f"world={recipe.world}",
        f"precision={recipe.precision}",
        f"threads={recipe.threads}",
    ]
    return EmergenceRun(run.folder / f"seed{seed}", load_recipe(source.recipe, keys), run.report)


def _serving(run: CompareRun, folder: str, seed: int) -> EmergenceRun:
    recipe = EmergenceRun.open_own(folder).recipe
    for what, own, wanted in (("seed", recipe.seed, seed), ("world", recipe.world, run.recipe.world),
                              ("precision", recipe.precision, run.recipe.precision)):  # fmt: skip
        if own != wanted:
            raise SparsightError(f"{folder} cannot serve: its {what} is {own}, and the comparison's is {wanted}")
    return EmergenceRun(Path(folder), replace(recipe, threads=run.recipe.threads), run.report)


def fit_data(subject: ScenesSubject, run: EmergenceRun, kind: str, images: int = 0) -> FitData:
    """For layout or style: the site, SAE and window of that edit, and the annotated images of the dictionaries."""
    config: EditConfig = getattr(run.recipe, kind)
    stage: str = getattr(subject.run.recipe.emergence, kind)
    numbers = run.numbers("dictionary")[: images or None]
    return FitData(
        subject.model, config.site, stage_window(stage), tuple(numbers), subject.loop, run.recipe.seed,
        sources(subject, run, config, stage, images),
    )  # fmt: skip


def sources(
    subject: ScenesSubject, run: EmergenceRun, config: EditConfig, stage: str, images: int = 0
) -> dict[str, Callable[[], Any]]:
    """Everything that methods may ask for and this world has; latents are found on the first `images` (0: all)."""
    stream = stream_name(config.site, stage, "cond")

    def labels(attribute: str, numbers: Sequence[int]) -> Tensor:
        return torch.tensor([has(own, attribute) for own in objects_of(run, numbers)])

    def latents(concept: Concept, by: str, count: int) -> tuple[int, ...]:
        asked = replace(config, by=by, most=count)
        word = concept.thing or str(concept.attribute)
        if concept.thing:
            found = object_latents(run, asked, word, stage, images)
        else:
            found = style_latents(run, asked, word, stage, images)[0]
        if not found:
            raise SparsightError(f"at the {stage} stage no latent stands for {word!r} by its {by}")
        return tuple(found)

    return {
        "store": lambda: run.store(stream), "sae": lambda: run.sae(stream, config.k).requires_grad_(False),
        "labels": lambda: labels, "latents": lambda: latents, "images": lambda: images_of(run),
        "masks": lambda: masks_by(run.world.annotator), "text": lambda: subject.world.clip,
        "perceptual": lambda: subject.perceptual,
    }  # fmt: skip


def has(objects: Sequence[Any], attribute: str) -> bool:
    """Whether annotated objects show an attribute: a label, or a label with the quadrant of its middle, "cat_top-left"."""
    label, _, place = attribute.partition("_")
    masks = [one.mask for one in objects if one.label == label]
    if not place or not masks:
        return bool(masks)
    return bool(quadrant_success(torch.stack(masks).any(0)[None].float(), place)[0])
