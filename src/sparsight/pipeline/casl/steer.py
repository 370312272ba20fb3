"""The stage that edits: choose a strength on validation faces, edit the test faces with every method, save all images."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from sparsight.activations import Store
from sparsight.concepts import Concept, choose
from sparsight.files import atomic, digest, read_json, write_json
from sparsight.images import COLUMNS, write_sheet
from sparsight.pipeline.casl.editing import Faces, edited, faces, window
from sparsight.pipeline.casl.latents import SHOWN, write_latents
from sparsight.pipeline.casl.openers import open_alignment, open_sae, open_store
from sparsight.pipeline.casl.selection import choose_strength, refitted, select
from sparsight.sae import SAE
from sparsight.steering import LatentSteering, Steering, casl_steer, controls, mean_shift, to_size

if TYPE_CHECKING:
    from sparsight.pipeline.casl.run import CaslRun

SLIDER = 8
TOKEN_IMAGES = 96  # images whose tokens calibrate the controls


def steer_stage(run: CaslRun) -> None:
    """Every concept of the recipe; one that was finished for the same inputs is not done again."""
    store, sae = open_store(run), open_sae(run)
    concepts = choose(run.recipe.concepts, run.world.concepts)
    for done, concept in enumerate(concepts):
        _one_concept(run, store, sae, concept, partial(run.report.update, done, len(concepts)))
        run.report.update(done + 1, len(concepts), concept.name)


def _one_concept(run: CaslRun, store: Store, sae: SAE, concept: Concept, say: Callable[[str], None]) -> None:
    folder = run.folder / "concepts" / concept.name
    key = digest([run.key("steer"), concept.name])
    if (folder / "steer.json").exists() and read_json(folder / "steer.json")["key"] == key:
        return
    config = run.recipe.steer
    say(f"{concept.name}: inverting")
    test = faces(run, concept, "test", config.test)
    validation = faces(run, concept, "validation", config.validation)
    tokens, images = _tokens(run, store)
    say(f"{concept.name}: choosing latents")
    alignment, attribute = open_alignment(run, concept.name), str(concept.attribute)
    selection = select(run, sae, store, alignment, attribute, validation.first(config.screen))
    methods = _methods(run, store, selection.casl, concept, tokens, images)
    _save(folder / "images", {"original": test.original, "counterfactual": _truth(run, concept, test)})
    strengths = {}
    chosen: dict[str, Any] = {}
    for name, method in methods.items():
        if name in ("random_latent", "random_direction"):
            alpha = chosen["casl"]["alpha"]  # equal norm: the same strength as what they control for
        else:
            say(f"{concept.name}: strength of {name}")
            chosen[name] = _choice(run, concept, method, validation)
            alpha = chosen[name]["alpha"]
        say(f"{concept.name}: {name}, alpha {alpha:g}")
        _save(folder / "images", {name: edited(run, method.at(alpha), test.noise)})
        strengths[name] = {
            "alpha": alpha,
            "strength": alpha * mean_shift(method, tokens) / float(tokens.norm(dim=-1).mean()),
        }
    say(f"{concept.name}: sweep")
    sweep(run, sae, concept, selection.order, test, folder)
    write_latents(run, store, sae, concept, selection.order[:SHOWN])
    casl = methods["casl"]
    assert isinstance(casl, LatentSteering)
    _slider(run, casl, chosen["casl"]["alpha"], test, folder / "slider")
    record = {
        "key": key,
        "numbers": test.numbers,
        "latents": list(casl.latents),
        "order": selection.order,
        "methods": strengths,
        "choice": chosen,
        "trials": selection.trials,
    }
    _save_columns(folder, casl)
    write_json(folder / "steer.json", record)


def _methods(
    run: CaslRun, store: Store, casl: LatentSteering, concept: Concept, tokens: Tensor, images: Tensor
) -> dict[str, Steering]:
    config, sae = run.recipe.steer, casl.sae
    assert sae is not None
    alignment, plain = open_alignment(run, concept.name), open_alignment(run, concept.name, "channels")
    column = run.world.attributes.index(str(concept.attribute))
    labels = run.world.source("harvest").labels(images.tolist())[:, column]
    found = controls(casl, alignment, plain, tokens, labels, seed=run.recipe.seed)
    shift = mean_shift(casl, tokens)
    if config.refit:  # a control that had less training would prove nothing
        drawn = found["random_latent"]
        assert isinstance(drawn, LatentSteering)
        found["random_latent"] = to_size(refitted(run, sae, store, alignment, drawn.latents), tokens, shift)
    if config.candidates or config.refit:  # what the paper's own rule would have taken
        by_norm = casl_steer(sae, alignment, k=config.k, ranking=config.ranking, window=window(run))
        found["casl_by_norm"] = to_size(by_norm, tokens, shift)
    return {"casl": casl, **found}


def _tokens(run: CaslRun, store: Store) -> tuple[Tensor, Tensor]:
    """Activations (M, N, C) of some training images, and the image each is of."""
    columns = store.load("tokens", "image", images=run.train_numbers[:TOKEN_IMAGES])
    return columns["tokens"], columns["image"]


def _choice(run: CaslRun, concept: Concept, method: Steering, validation: Faces) -> dict[str, Any]:
    choice, _ = choose_strength(run, method, str(concept.attribute), validation)
    trials = [{"alpha": t.alpha, "flipped": t.flipped, "valid": t.valid} for t in choice.trials]
    return {"alpha": choice.alpha, "met": choice.met, "trials": trials}


def sweep(run: CaslRun, sae: SAE, concept: Concept, order: list[int], test: Faces, folder: Path) -> None:
    """Sheets of k x alpha on the first test faces, `sweep/k001_a000.png` and on."""
    config, alignment = run.recipe.steer, open_alignment(run, concept.name)
    count = min(config.sweep_images, len(test.numbers))
    for k in config.sweep_k:
        method = casl_steer(sae, alignment, latents=order[:k], window=window(run))
        for place, alpha in enumerate(config.sweep_alphas):
            path = folder / "sweep" / f"k{k:03d}_a{place:03d}.png"
            write_sheet(path, edited(run, method.at(alpha), test.noise[:count]))


def _slider(run: CaslRun, casl: LatentSteering, chosen: float, test: Faces, folder: Path) -> None:
    count = min(SLIDER, len(test.numbers))
    alphas = sorted({0.0, *map(float, run.recipe.steer.alphas), float(chosen)})
    for place, alpha in enumerate(alphas):
        images = edited(run, casl.at(alpha), test.noise[:count]) if alpha else test.original[:count]
        write_sheet(folder / f"{place:03d}.png", images)
    write_json(folder.parent / "slider.json", {"alphas": alphas, "chosen": float(chosen), "count": count})


def _save_columns(folder: Path, casl: LatentSteering) -> None:
    assert casl.directions is not None
    with atomic(folder / "steer.safetensors") as temporary:
        save_file({"latents": torch.tensor(casl.latents), "directions": casl.directions.contiguous()}, temporary)


def _truth(run: CaslRun, concept: Concept, test: Faces) -> Tensor:
    return run.world.counterfactuals("test", test.numbers, str(concept.attribute))


def _save(folder: Path, sheets: dict[str, Tensor]) -> None:
    for name, images in sheets.items():
        write_sheet(folder / f"{name}.png", images)
        write_json(folder / "sheet.json", {"tile": list(images.shape[-2:]), "columns": COLUMNS, "count": len(images)})
