"""The stage that draws what the report shows and no other stage keeps: the film strip, and where latents fire.

Nothing here is measured; `gallery/gallery.json` says what was chosen and by which rule.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from sparsight.concepts import ConceptDictionary
from sparsight.concepts.annotation import united
from sparsight.files import read_json, write_json
from sparsight.pipeline.emergence.dictionaries import objects_of
from sparsight.pipeline.emergence.drawing import COLOURS, SCALE, composition_tile, write_tiles
from sparsight.pipeline.emergence.reading import series, things, whole
from sparsight.pipeline.emergence.run import stream_name
from sparsight.pipeline.emergence.saes import by_stamp

if TYPE_CHECKING:
    from pathlib import Path

    from sparsight.pipeline.emergence.run import EmergenceRun

IMAGES, LATENTS, TOP, LABELS = 6, 6, 8, 4


def write_gallery(run: EmergenceRun) -> None:
    """`gallery/`: `gallery.json` and the sheet `film.png`. Reads metrics.json and what the stages before it kept."""
    folder = run.own_folder("gallery", "report")
    metrics = read_json(run.folder / "metrics.json")
    film, latents = draw_film(run, metrics, folder), fired(run, metrics)
    write_json(folder / "gallery.json", {"film": film, "latents": latents})


def draw_film(run: EmergenceRun, metrics: dict[str, Any], folder: Path) -> dict[str, Any]:
    """`film.png`: a row for each image, a tile for each moment, the last one for the annotated objects."""
    reading, scores = read_json(run.folder / "reading.json"), load_file(run.folder / "reading" / "film.safetensors")
    best = next(iter(metrics["composition_iou"].values()))
    moments = moments_of(run, series(metrics["composition"], (best["reading"], best["site"], best["k"])))
    shown, rule = chosen_images(reading["images"])
    rows, tiles = [], []
    for number, objects in zip(shown, objects_of(run, shown), strict=True):
        at = [i for i, image in enumerate(reading["images"]) if image == number]
        nouns, masks = [reading["nouns"][i] for i in at], united(objects)
        truth = torch.stack([masks[noun] for noun in nouns])
        for moment in moments:
            own = scores[moment["reading"]][at].float()
            tiles.append(composition_tile(predicted(own, moment["threshold"], truth.shape[1:]), truth))
        tiles.append(composition_tile(stacked(truth), truth))
        rows.append({"image": number, "prompt": run.prompts.batch([number])[0], "nouns": nouns})
    if tiles:  # none where no test image has an object that its prompt names
        write_tiles(folder / "film.png", tiles, len(moments) + 1)
    size = [SCALE * side for side in run.model.image_size]
    facts = {"site": best["site"], "k": best["k"], "rule": rule, "tile": size, "colours": list(COLOURS)}
    return {**facts, "moments": moments, "rows": rows}


def moments_of(run: EmergenceRun, mine: dict[str, Any]) -> list[dict[str, Any]]:
    """The readings of a series from the first step on: those of the SAE across time, or else of the three stages'."""
    steps = {t: i + 1 for i, (t, _) in enumerate(run.model.pairs(run.recipe.sampling.steps))}
    across = {n: f for n, f in mine.items() if f["stage"] == "all"}
    ordered = sorted((across or mine).items(), key=lambda pair: -pair[1]["t"])
    return [{"reading": n, "t": f["t"], "step": steps[f["t"]], "threshold": f["threshold"]} for n, f in ordered]


def chosen_images(images: list[int]) -> tuple[list[int], str]:
    """The images of the film strip, and the rule in words; `images` is the image of each target."""
    counts = {number: images.count(number) for number in dict.fromkeys(images)}
    several = [number for number, count in counts.items() if count > 1]
    if several:
        return several[:IMAGES], "the first test images in which two or more objects of the prompt were found"
    return list(counts)[:IMAGES], "the first test images in which an object of the prompt was found"


def predicted(scores: Tensor, threshold: float, size: torch.Size | tuple[int, ...]) -> Tensor:
    """Whose each pixel is (H, W): 1 + the noun with the highest of the scores (n, h, w) above the threshold, else 0."""
    high, noun = scores.max(0)
    owner = torch.where(high > threshold, noun + 1, 0)
    rows, columns = (torch.arange(s) * g // s for s, g in zip(size, owner.shape, strict=True))
    return owner[rows][:, columns]


def stacked(masks: Tensor) -> Tensor:
    """Masks (n, H, W) as one map of owners; where two overlap, the smaller lies on top."""
    owner = torch.zeros(masks.shape[1:], dtype=torch.int64)
    for noun in masks.flatten(1).sum(1).argsort(descending=True, stable=True).tolist():
        owner[masks[noun]] = noun + 1
    return owner


def fired(run: EmergenceRun, metrics: dict[str, Any]) -> dict[str, Any]:
    """For the site of the layout edits and each stage, the latents with the largest entries and their top images."""
    edit, stages = metrics["layout"]["edit"], {}
    for stage in run.steps_at:
        stream = stream_name(edit["site"], stage, "cond")
        dictionary = things(run, run.dictionary(f"{stream}.k{edit['k']}"))
        stages[stage] = {"t": run.stamp(stage), "latents": cards(run, stream, edit["k"], dictionary)}
    return {"site": edit["site"], "k": edit["k"], "stages": stages}


def cards(run: EmergenceRun, stream: str, k: int, dictionary: ConceptDictionary) -> list[dict[str, Any]]:
    """The latents with the largest entries of a dictionary, one for each commonest label, and their top images."""
    total, latents = dictionary.entries.total(dictionary.latents), largest(dictionary)
    statistics = dictionary.statistics
    tops = {n: statistics.top_images(n)[:TOP] if statistics is not None else [] for n in latents}
    maps = maps_of_latents(run, stream, k, tops, dictionary.grid)
    return [
        {"latent": n, "objects": int(total[n]), "labels": dictionary.labels_of(n)[:LABELS],
         "top": [{"image": image, "map": maps[n, image]} for image in tops[n]]}
        for n in latents
    ]  # fmt: skip


def largest(dictionary: ConceptDictionary) -> list[int]:
    """The latents with the most objects in their entry, each with another commonest label."""
    total = dictionary.entries.total(dictionary.latents)
    found: dict[str, int] = {}
    for latent in total.argsort(descending=True, stable=True)[: int((total > 0).sum())].tolist():
        found.setdefault(dictionary.labels_of(latent)[0][0], latent)
        if len(found) == LATENTS:
            break
    return list(found.values())


def maps_of_latents(
    run: EmergenceRun, stream: str, k: int, tops: dict[int, list[int]], grid: tuple[int, int]
) -> dict[tuple[int, int], list[list[float]]]:
    """The map of each latent on each of its images, as rows of numbers: {(latent, image): map}."""
    numbers = sorted({image for images in tops.values() for image in images})
    if not numbers:
        return {}
    ((t, tokens),) = by_stamp(run.store(stream), numbers).items()
    code = whole(run.sae(stream, k), tokens, t)
    found = {}
    for latent, images in tops.items():
        mine = code.indices == latent
        dense = torch.zeros(len(code.offsets) - 1).index_add_(0, code.tokens[mine], code.values[mine].float())
        for image in images:
            found[latent, image] = rounded(dense.view(len(numbers), *grid)[numbers.index(image)])
    return found


def rounded(values: Tensor) -> list[list[float]]:
    """A map fit for JSON."""
    return [[round(value, 4) for value in row] for row in values.tolist()]
