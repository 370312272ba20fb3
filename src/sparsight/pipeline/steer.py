"""The stage that edits: choose a strength on validation faces, edit the test faces with every method, save all images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sparsight.activations import Store
from sparsight.concepts import Concept, choose
from sparsight.diffusion import DiffusionModel, Loop, invert, sample
from sparsight.files import digest, read_json, write_json
from sparsight.images import COLUMNS, write_sheet
from sparsight.sae import SAE
from sparsight.steering import LatentSteering, Steering, Window, casl_steer, choose_alpha, controls, mean_shift

if TYPE_CHECKING:
    from sparsight.pipeline.run import Run

SLIDER = 8
TOKEN_IMAGES = 96  # images whose tokens calibrate the controls


@dataclass(frozen=True)
class Faces:
    """Test or validation faces of one concept: their numbers, the noise they invert to, and what it returns unedited."""

    numbers: list[int]
    noise: Tensor
    original: Tensor


def steer_stage(run: Run) -> None:
    """Every concept of the recipe; one that was finished for the same inputs is not done again."""
    from sparsight.pipeline.stages import open_sae, open_store

    store, sae = open_store(run), open_sae(run)
    concepts = choose(run.recipe.concepts, run.world.concepts)
    for done, concept in enumerate(concepts):
        _one_concept(run, store, sae, concept, partial(run.report.update, done, len(concepts)))
        run.report.update(done + 1, len(concepts), concept.name)


def _one_concept(run: Run, store: Store, sae: SAE, concept: Concept, say: Callable[[str], None]) -> None:
    folder = run.folder / "concepts" / concept.name
    key = digest([run.key("steer"), concept.name])
    if (folder / "steer.json").exists() and read_json(folder / "steer.json")["key"] == key:
        return
    config = run.recipe.steer
    say(f"{concept.name}: inverting")
    test = faces(run, concept, "test", config.test)
    validation = faces(run, concept, "validation", config.validation)
    tokens, images = _tokens(run, store)
    methods = _methods(run, sae, concept, tokens, images)
    _save(folder / "images", {"original": test.original, "counterfactual": _truth(run, concept, test)})
    strengths = {}
    chosen: dict[str, Any] = {}
    for name, method in methods.items():
        if name in ("random_latent", "random_direction"):
            alpha = chosen["casl"]["alpha"]  # equal norm: the same strength as what they control for
        else:
            say(f"{concept.name}: strength of {name}")
            chosen[name] = _choose(run, concept, method, validation)
            alpha = chosen[name]["alpha"]
        say(f"{concept.name}: {name}, alpha {alpha:g}")
        _save(folder / "images", {name: edited(run, method.at(alpha), test.noise)})
        strengths[name] = {
            "alpha": alpha,
            "strength": alpha * mean_shift(method, tokens) / float(tokens.norm(dim=-1).mean()),
        }
    say(f"{concept.name}: sweep")
    sweep(run, sae, concept, test, folder)
    casl = methods["casl"]
    assert isinstance(casl, LatentSteering)
    _slider(run, casl, chosen["casl"]["alpha"], test, folder / "slider")
    record = {
        "key": key,
        "numbers": test.numbers,
        "latents": list(casl.latents),
        "methods": strengths,
        "choice": chosen,
    }
    write_json(folder / "steer.json", record)


def faces(run: Run, concept: Concept, split: str, count: int) -> Faces:
    """Faces that lack the concept, inverted, and their unedited reconstruction (EPR's x, casl.md 8.2 row 16)."""
    numbers = run.world.eligible(split, str(concept.attribute), count)
    images = run.world.source(split).batch(numbers)
    noise = inverted(run, images)
    return Faces(numbers, noise, edited(run, None, noise))


@torch.no_grad()
def inverted(run: Run, images: Tensor) -> Tensor:
    """The noise that the run's sampler turns back into these images."""
    config = run.recipe.steer
    return invert(run.model, run.model.encode(images), Loop(steps=config.steps, refine=config.refine))


@torch.no_grad()
def edited(run: Run, intervention: Steering | None, noise: Tensor) -> Tensor:
    """Images (n, 3, H, W) sampled from `noise` under an intervention; None gives the reconstruction."""
    return _sampled(run.model, Loop(steps=run.recipe.steer.steps, mode=run.recipe.steer.mode), intervention, noise)


def _sampled(model: DiffusionModel, loop: Loop, intervention: Steering | None, noise: Tensor) -> Tensor:
    acting = [] if intervention is None else [intervention]
    return model.decode(sample(model, noise, loop, interventions=acting)).clamp(-1, 1)


def window(run: Run) -> Window:
    """The recipe's window."""
    return Window(run.recipe.steer.low, run.recipe.steer.high)


def _methods(run: Run, sae: SAE, concept: Concept, tokens: Tensor, images: Tensor) -> dict[str, Steering]:
    from sparsight.pipeline.stages import open_alignment

    config = run.recipe.steer
    alignment, plain = open_alignment(run, concept.name), open_alignment(run, concept.name, "channels")
    casl = casl_steer(sae, alignment, k=config.k, ranking=config.ranking, window=window(run))
    column = run.world.attributes.index(str(concept.attribute))
    labels = run.world.source("harvest").labels(images.tolist())[:, column]
    found = controls(casl, alignment, plain, tokens, labels, seed=run.recipe.seed)
    return {"casl": casl, **found}


def _tokens(run: Run, store: Store) -> tuple[Tensor, Tensor]:
    """Activations (M, N, C) of some training images, and the image each is of."""
    columns = store.load("tokens", "image", images=run.train_numbers[:TOKEN_IMAGES])
    return columns["tokens"], columns["image"]


def _choose(run: Run, concept: Concept, method: Steering, validation: Faces) -> dict[str, Any]:
    config = run.recipe.steer
    column = run.world.attributes.index(str(concept.attribute))
    judge = run.world.classifiers["resnet"]

    def flipped(images: Tensor) -> Tensor:
        with torch.no_grad():
            return judge(images)[:, column] > 0

    choice = choose_alpha(
        lambda alpha: edited(run, method.at(alpha), validation.noise), flipped, run.world.validity, config.alphas
    )
    trials = [{"alpha": t.alpha, "flipped": t.flipped, "valid": t.valid} for t in choice.trials]
    return {"alpha": choice.alpha, "met": choice.met, "trials": trials}


def sweep(run: Run, sae: SAE, concept: Concept, test: Faces, folder: Path) -> None:
    """Sheets of k x alpha on the first test faces, `sweep/k001_a000.png` and on."""
    from sparsight.pipeline.stages import open_alignment

    config, alignment = run.recipe.steer, open_alignment(run, concept.name)
    count = min(config.sweep_images, len(test.numbers))
    for k in config.sweep_k:
        method = casl_steer(sae, alignment, k=k, ranking=config.ranking, window=window(run))
        for place, alpha in enumerate(config.sweep_alphas):
            path = folder / "sweep" / f"k{k:03d}_a{place:03d}.png"
            write_sheet(path, edited(run, method.at(alpha), test.noise[:count]))


def _slider(run: Run, casl: LatentSteering, chosen: float, test: Faces, folder: Path) -> None:
    count = min(SLIDER, len(test.numbers))
    alphas = sorted({0.0, *map(float, run.recipe.steer.alphas), float(chosen)})
    for place, alpha in enumerate(alphas):
        images = edited(run, casl.at(alpha), test.noise[:count]) if alpha else test.original[:count]
        write_sheet(folder / f"{place:03d}.png", images)
    write_json(folder.parent / "slider.json", {"alphas": alphas, "chosen": float(chosen), "count": count})


def _truth(run: Run, concept: Concept, test: Faces) -> Tensor:
    return run.world.counterfactuals("test", test.numbers, str(concept.attribute))


def _save(folder: Path, sheets: dict[str, Tensor]) -> None:
    for name, images in sheets.items():
        write_sheet(folder / f"{name}.png", images)
        write_json(folder / "sheet.json", {"tile": list(images.shape[-2:]), "columns": COLUMNS, "count": len(images)})
