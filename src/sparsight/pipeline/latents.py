"""What the aligned latents see: how well they predict the concept, and the images that excite them most."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sparsight.activations import Store
from sparsight.concepts import Alignment, Concept, probe_accuracy
from sparsight.errors import SparsightError
from sparsight.files import write_json
from sparsight.images import write_sheet
from sparsight.metrics import Interval
from sparsight.sae import SAE

if TYPE_CHECKING:
    from sparsight.pipeline.run import Run

TOPS = (1, 2, 4, 8, 16)
SHOWN, IMAGES = 4, 8


def write_probes(run: Run, store: Store, sae: SAE, concept: Concept) -> None:
    """probe.json: accuracy of a linear SVM on the top latents of held-out images."""
    folder = run.folder / "concepts" / concept.name
    alignment = Alignment.load(folder / "alignment")
    latents = alignment.top(max(TOPS), run.recipe.steer.ranking)
    maps, numbers = _maps(store, sae, latents, run.held_out_numbers)
    column = run.world.attributes.index(str(concept.attribute))
    labels = run.world.source("harvest").labels(numbers)[:, column]
    try:
        found = probe_accuracy(maps.mean(1), labels, range(len(latents)), tops=TOPS, seed=run.recipe.seed)
    except SparsightError:  # too few held-out images of one class for folds
        found = dict.fromkeys(
            [f"top{k}" for k in TOPS] + ["shuffled"], Interval(float("nan"), float("nan"), float("nan"), 0)
        )
    write_json(folder / "probe.json", {name: interval.to_dict() for name, interval in found.items()})


def write_latents(run: Run, store: Store, sae: SAE, concept: Concept) -> None:
    """latents.json and sheets: for the best latents, the images with the highest mean activation, and where it is."""
    folder = run.folder / "concepts" / concept.name
    alignment = Alignment.load(folder / "alignment")
    latents = alignment.top(SHOWN, run.recipe.steer.ranking)
    scores = alignment.scores(run.recipe.steer.ranking)
    maps, numbers = _maps(store, sae, latents, run.held_out_numbers)
    records = []
    for rank, latent in enumerate(latents, 1):
        best = maps[:, :, rank - 1].mean(1).topk(min(IMAGES, len(numbers))).indices.tolist()
        shown = [numbers[i] for i in best]
        write_sheet(folder / "latents" / f"{rank:03d}.png", run.world.source("harvest").batch(shown))
        top = [_record(maps[i, :, rank - 1], n, store.spec.grid) for i, n in zip(best, shown, strict=True)]
        density = float((maps[:, :, rank - 1] > 0).float().mean())
        records.append({"rank": rank, "latent": latent, "score": float(scores[latent]), "density": density, "top": top})
    write_json(folder / "latents.json", records)


def _record(activation: Tensor, number: int, grid: tuple[int, int]) -> dict[str, Any]:
    rounded = [[round(float(v), 4) for v in row] for row in activation.reshape(grid)]
    return {"image": number, "activation": float(activation.mean()), "map": rounded}


@torch.no_grad()
def _maps(store: Store, sae: SAE, latents: list[int], numbers: list[int]) -> tuple[Tensor, list[int]]:
    """Codes (images, positions, latents) averaged over timesteps, and the images' numbers."""
    maps, order = [], []
    for start in range(0, len(numbers), 32):  # 32 images at a time bound the memory
        columns = store.load("tokens", "image", images=numbers[start : start + 32])
        z = sae.encode_latents(columns["tokens"], latents)
        for number in columns["image"].unique().tolist():
            maps.append(z[columns["image"] == number].mean(0))
            order.append(number)
    return torch.stack(maps), order
