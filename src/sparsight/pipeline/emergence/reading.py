"""Read the composition from the codes of one step, before there is an image, and measure it (section 4 of the paper)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from safetensors.torch import save_file
from torch import Tensor

from sparsight.concepts import (
    Annotation,
    ConceptReader,
    KnownNouns,
    MeanMap,
    PcaCoder,
    Tally,
    Targets,
    chance_iou,
    targets_of,
)
from sparsight.concepts.baselines import attention_scores, token_places
from sparsight.concepts.tally import mean_iou
from sparsight.errors import SparsightError
from sparsight.files import atomic, write_json
from sparsight.pipeline.emergence.attention import attention_of
from sparsight.pipeline.emergence.dictionaries import codes, evidence_of, make, objects_of
from sparsight.pipeline.emergence.saes import by_stamp
from sparsight.sae.sparsity import SparseCode

if TYPE_CHECKING:
    from sparsight.concepts import ConceptDictionary
    from sparsight.pipeline.emergence.run import EmergenceRun


Objects = list[list[Annotation]]  # of the images of the dictionaries
READ = ("sae", "evidence")  # through the words of dictionaries as the paper does, and from where latents are active


class Reader(Protocol):
    """Scores maps of nouns from codes."""

    def scores(self, code: SparseCode, targets: Targets) -> Tensor:
        """Every target's map, (n, h, w)."""
        ...


@dataclass
class Split:
    """The targets of the validation or the test images, and their numbers."""

    numbers: list[int]
    targets: Targets


class Scored:
    """IoU of every way of reading, each at the threshold that was best on the validation images."""

    def __init__(self, validation: Split, test: Split) -> None:
        self.validation, self.test = validation, test
        self.rows: dict[str, Tensor] = {}
        self.figures: dict[str, dict[str, Any]] = {}

    def add(self, name: str, scores: Mapping[str, Tensor], **facts: Any) -> None:
        """`scores` {"validation", "test"} (n, h, w) of the targets; `facts` are kept beside the figure."""
        tallies = {}
        for use, split in (("validation", self.validation), ("test", self.test)):
            tallies[use] = Tally()
            tallies[use].add(scores[use], split.targets, split.numbers)
        threshold = tallies["validation"].best()
        at = tallies["test"].thresholds.index(threshold)
        self.rows[name] = tallies["test"].iou[:, at].clone()
        chosen = float(tallies["validation"].iou[:, at].mean())
        self.figures[name] = {**facts, "validation": chosen, **tallies["test"].score(threshold).to_dict()}


def read_stage(run: EmergenceRun) -> None:
    """`reading.json`, and `reading/`: every target's IoU, and the maps of the film strip."""
    folder = run.own_folder("reading", "read")
    scored = Scored(*(split_of(run, use) for use in ("validation", "test")))
    jobs = [(stream, k) for stream in run.streams() for k in run.recipe.k]
    film: dict[str, Tensor] = {}
    objects = objects_of(run, run.numbers("dictionary"))  # read once: every reading learns from them
    for done, (stream, k) in enumerate(jobs):
        run.report.update(done, len(jobs) + 2, f"{stream}, k = {k}")
        read_stream(run, stream, k, scored, film, objects)
    run.report.update(len(jobs), len(jobs) + 2, "baselines")
    add_baselines(run, scored, objects)
    add_attention(run, scored)
    test = scored.test
    with atomic(folder / "iou.safetensors") as temporary:
        save_file({"image": torch.tensor(test.numbers)[test.targets.image], **scored.rows}, temporary)
    kept = series(scored.figures, best_series(scored.figures, run.steps_at))
    with atomic(folder / "film.safetensors") as temporary:
        save_file({name: film[name] for name in kept}, temporary)
    write_json(run.folder / "reading.json", {
        "readings": scored.figures, "nouns": test.targets.nouns, "dropped": test.targets.dropped,
        "images": torch.tensor(test.numbers)[test.targets.image].tolist(),
    })  # fmt: skip


def split_of(run: EmergenceRun, use: str) -> Split:
    """The targets of a use of prompts: the objects that a prompt names and that were found in its image."""
    numbers, nouns = run.numbers(use), KnownNouns(run.world.kinds)
    asked = [nouns(prompt) for prompt in run.prompts.batch(numbers)]
    targets = targets_of(objects_of(run, numbers), asked, run.words, run.model.image_size)
    if not targets.nouns:
        raise SparsightError(
            f"none of the objects that the {len(numbers)} {use} prompts name was found in its image: use more prompts, "
            "or a model that draws what it is told"
        )
    return Split(numbers, targets)


def things(run: EmergenceRun, dictionary: ConceptDictionary) -> ConceptDictionary:
    """A dictionary without the styles, which every position has."""
    return dictionary.only((*run.world.kinds, *run.world.backgrounds))


def read_stream(
    run: EmergenceRun, stream: str, k: int, scored: Scored, film: dict[str, Tensor], objects: Objects
) -> None:
    """Read one SAE's codes of every timestep that it has seen."""
    sae, store, site = run.sae(stream, k), run.store(stream), run.streams()[stream].site
    tokens = {use: by_stamp(store, split.numbers) for use, split in splits(scored)}
    _, stage, half = stream.rsplit(".", 2)
    learned = by_stamp(store, run.numbers("dictionary"))
    for t in tokens["test"]:
        name = f"{stream}.k{k}" if stage != "all" else f"{stream}.k{k}.t{t}"
        readers: dict[str, Reader] = {
            "sae": ConceptReader(things(run, run.dictionary(name)), run.words),
            "evidence": evidence_of(sae, learned[t], t, run.model.site(site).grid, run.world.kinds, objects),
        }
        seen = {use: whole(sae, tokens[use][t], t) for use, _ in splits(scored)}
        for kind, reader in readers.items():
            scores = {use: reader.scores(seen[use], split.targets) for use, split in splits(scored)}
            own = name if kind == "sae" else f"{kind}.{name}"
            scored.add(own, scores, site=site, stage=stage, half=half, k=k, t=t, kind=kind)
            film[own] = scores["test"].half()


def best_series(readings: Mapping[str, Mapping[str, Any]], stages: Collection[str]) -> tuple[str, str, int]:
    """The kind of reading, the site and the k that read best on validation images, over all stages of the half with the prompt."""
    total: dict[tuple[str, str, int], float] = {}
    for f in readings.values():
        if f["kind"] in READ and f["half"] == "cond" and f["stage"] in stages:
            key = (f["kind"], f["site"], f["k"])
            total[key] = total.get(key, 0.0) + f["validation"]
    return max(sorted(total), key=lambda key: total[key])


def series(readings: Mapping[str, Mapping[str, Any]], best: tuple[str, str, int]) -> dict[str, Mapping[str, Any]]:
    """The readings of a series by name, the SAE's across time among them."""
    return {
        n: f for n, f in readings.items()
        if f["kind"] in READ and (f["kind"], f["site"], f["k"], f["half"]) == (*best, "cond")
    }  # fmt: skip


def splits(scored: Scored) -> tuple[tuple[str, Split], tuple[str, Split]]:
    """Both splits by name."""
    return ("validation", scored.validation), ("test", scored.test)


def whole(coder: Any, tokens: Tensor, t: int) -> SparseCode:
    """The code of all images' tokens (images, positions, C) in one."""
    parts = [code for _, code in codes(coder, tokens, t)]
    offsets = [torch.zeros(1, dtype=torch.int64)]
    for part in parts:
        offsets.append(part.offsets[1:] + offsets[-1][-1])
    return SparseCode(torch.cat([p.indices for p in parts]), torch.cat([p.values for p in parts]), torch.cat(offsets))


def add_baselines(run: EmergenceRun, scored: Scored, objects: Objects) -> None:
    """Chance, the mean map of each noun, and PCA in place of the SAE, stage by stage."""
    test = scored.test.targets
    for kind in ("pixels", "shifted"):
        rows = chance_iou(test.masks, kind)
        images = torch.tensor(scored.test.numbers)[test.image]
        scored.rows[f"chance.{kind}"] = rows
        scored.figures[f"chance.{kind}"] = {"kind": "chance", **mean_iou(rows, images).to_dict()}
    for grid in {run.model.site(site).grid for site in run.recipe.sites}:
        mean = MeanMap(grid)
        mean.add(objects)
        scores = {use: to_one(mean.scores(split.targets)) for use, split in splits(scored)}
        scored.add(f"mean_map.{grid[0]}x{grid[1]}", scores, kind="mean map")
    for stream in run.streams():
        if stream.endswith(".cond") and not stream.endswith(".all.cond"):
            add_pca(run, stream, run.recipe.k[0], scored, objects)


def to_one(maps: Tensor) -> Tensor:
    """Each map over its largest value, so that one threshold fits them all."""
    return maps / maps.amax((1, 2), keepdim=True).clamp_min(1e-12)


def add_pca(run: EmergenceRun, stream: str, k: int, scored: Scored, objects: Objects) -> None:
    """PCA's codes through a dictionary of their own, as an SAE's."""
    store, site = run.store(stream), run.streams()[stream].site
    (t,) = run.streams()[stream].stamps(run.model)
    train = by_stamp(store, run.numbers("train")[:256])[t]
    coder = PcaCoder.fit([train], train.shape[-1], k)
    learned = by_stamp(store, run.numbers("dictionary"))
    made = make(run, stream, coder, learned, objects, run.numbers("dictionary"))
    grid = run.model.site(site).grid
    readers: dict[str, Reader] = {
        "pca": ConceptReader(things(run, made), run.words),
        "evidence.pca": evidence_of(coder, learned[t], t, grid, run.world.kinds, objects),
    }
    stage = stream.rsplit(".", 2)[1]
    for kind, reader in readers.items():
        scores = {
            u: reader.scores(whole(coder, by_stamp(store, s.numbers)[t], t), s.targets) for u, s in splits(scored)
        }
        scored.add(f"{kind}.{stream}.k{k}", scores, site=site, stage=stage, half="cond", k=k, kind=kind)


def add_attention(run: EmergenceRun, scored: Scored) -> None:
    """Cross-attention of the same step, over all layers, as DAAM adds it up."""
    maps = {use: attention_of(run, split.numbers) for use, split in splits(scored)}
    for stage in run.steps_at:
        scores = {}
        for use, split in splits(scored):
            prompts = run.prompts.batch(split.numbers)
            targets = split.targets
            places = [
                token_places(run.model.tokenizer, prompts[image], noun)
                for image, noun in zip(targets.image.tolist(), targets.nouns, strict=True)
            ]
            scores[use] = attention_scores(maps[use][stage], targets, places)
        scored.add(f"attention.{stage}", scores, stage=stage, kind="attention")
