"""What the aligned latents see: how well they predict the concept, and the images that excite them most."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sparsight.activations import Store
from sparsight.concepts import Alignment, Concept, pool, probe_accuracy
from sparsight.errors import SparsightError
from sparsight.files import write_json
from sparsight.images import write_sheet
from sparsight.metrics import Interval
from sparsight.sae import SAE

if TYPE_CHECKING:
    from sparsight.pipeline.casl.run import CaslRun

TOPS = (1, 2, 4, 8, 16)
SHOWN, IMAGES = 4, 8


def write_probes(run: CaslRun, store: Store, sae: SAE, concept: Concept) -> None:
    """probe.json: accuracy of a linear SVM on the top latents of held-out images, in the order of the ranking.

    A latent's feature is its strongest activation anywhere in the map at the least noisy timestep of the store: a smile
    covers a few positions, and near t = 999 no network can see it.
    """
    folder = run.folder / "concepts" / concept.name
    alignment = Alignment.load(folder / "alignment")
    latents = alignment.top(max(TOPS), run.recipe.steer.ranking)
    maps, numbers = _maps(store, sae, latents, run.held_out_numbers, cleanest=True)
    column = run.world.attributes.index(str(concept.attribute))
    labels = run.world.source("harvest").labels(numbers)[:, column]
    try:
        found = probe_accuracy(pool(maps, "max"), labels, range(len(latents)), tops=TOPS, seed=run.recipe.seed)
    except SparsightError:  # too few held-out images of one class for folds
        found = dict.fromkeys(
            [f"top{k}" for k in TOPS] + ["shuffled"], Interval(float("nan"), float("nan"), float("nan"), 0)
        )
    write_json(folder / "probe.json", {name: interval.to_dict() for name, interval in found.items()})


def write_latents(run: CaslRun, store: Store, sae: SAE, concept: Concept, latents: list[int]) -> None:
    """latents.json and sheets: for these latents, the images with the highest mean activation, and where it is."""
    folder = run.folder / "concepts" / concept.name
    alignment = Alignment.load(folder / "alignment")
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
def _maps(
    store: Store, sae: SAE, latents: list[int], numbers: list[int], cleanest: bool = False
) -> tuple[Tensor, list[int]]:
    """Codes (images, positions, latents) and the images' numbers: the mean over timesteps, or those at the lowest t."""
    maps, order = [], []
    for start in range(0, len(numbers), 32):  # 32 images at a time bound the memory
        columns = store.load("tokens", "image", "t", images=numbers[start : start + 32])
        kept = columns["t"] == min(store.spec.timesteps) if cleanest else slice(None)
        columns = {name: column[kept] for name, column in columns.items()}
        z = sae.encode_latents(columns["tokens"], latents)
        for number in columns["image"].unique().tolist():
            maps.append(z[columns["image"] == number].mean(0))
            order.append(number)
    return torch.stack(maps), order
