"""What the images show, and which latents were over it: annotations, and a dictionary for every SAE."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sparsight.concepts import (
    Annotation,
    Annotations,
    ConceptDictionary,
    DictionaryBuilder,
    Evidence,
    PcaCoder,
    annotate_images,
)
from sparsight.concepts.dictionary_build import largest_activations
from sparsight.images import Folder
from sparsight.pipeline.emergence.saes import by_stamp
from sparsight.sae import SAE, SparseCode

if TYPE_CHECKING:
    from sparsight.pipeline.emergence.run import EmergenceRun

Coder = SAE | PcaCoder
BATCH = 64
ANNOTATED = ("dictionary", "validation", "test")


def images_of(run: EmergenceRun) -> Folder:
    """The images that the harvest ended in."""
    return Folder(run.folder / "images", run.model.image_size)


def annotate_stage(run: EmergenceRun) -> None:
    """`annotations/`: objects, background and style of every image that dictionaries and readings need."""
    numbers = [number for use in ANNOTATED for number in run.numbers(use)]
    annotate_images(
        run.world.annotator, images_of(run), run.own_folder("annotations", "annotate"),
        numbers=numbers, captions=run.prompts.batch(numbers), progress=run.report.update,
    )  # fmt: skip


def objects_of(run: EmergenceRun, numbers: Sequence[int]) -> list[list[Annotation]]:
    """The annotations of these images."""
    wanted = dict.fromkeys(numbers)
    found = {number: own for number, own in Annotations(run.folder / "annotations") if number in wanted}
    return [found[number] for number in numbers]


def dictionary_stage(run: EmergenceRun) -> None:
    """`dictionaries/STREAM.kK/`; for an SAE across time one for each timestep, and one of all."""
    folder, numbers = run.own_folder("dictionaries", "dictionary"), run.numbers("dictionary")
    objects = objects_of(run, numbers)
    jobs = [(stream, k) for stream in run.streams() for k in run.recipe.k]
    for done, (stream, k) in enumerate(jobs):
        run.report.update(done, len(jobs), f"{stream}, k = {k}")
        sae = run.sae(stream, k)
        tokens = by_stamp(run.store(stream), numbers)
        for name, stamps in parts_of(f"{stream}.k{k}", tokens).items():
            if not (folder / name / "dictionary.json").exists():
                chosen = {t: tokens[t] for t in stamps}
                make(run, stream, sae, chosen, objects, numbers).save(folder / name)
    run.report.update(len(jobs), len(jobs), "")


def parts_of(name: str, tokens: Mapping[int, Tensor]) -> dict[str, list[int]]:
    """The dictionaries of an SAE: its own name for all of its timesteps, NAME.tT for one of several."""
    every = {name: list(tokens)}
    return every if len(tokens) == 1 else every | {f"{name}.t{t}": [t] for t in tokens}


def make(
    run: EmergenceRun, stream: str, sae: Coder, tokens: Mapping[int, Tensor], objects: list[list[Annotation]],
    numbers: list[int],
) -> ConceptDictionary:  # fmt: skip
    """The dictionary of an SAE over the images' tokens {t: (images, positions, C)}."""
    config, of = run.recipe.dictionary, run.streams()[stream]
    grid = run.model.site(of.site).grid
    latents, scale = latents_in(sae), None
    if config.normaliser == "global":
        scale = largest_activations((c for t, x in tokens.items() for _, c in codes(sae, x, t)), latents)
    builder = DictionaryBuilder(latents, grid, config, scale)
    for t, x in tokens.items():
        for rows, code in codes(sae, x, t):
            builder.add(code, objects[rows], numbers[rows])
    facts = {"site": of.site, "timesteps": list(tokens), "conditioning": of.conditioning}
    return builder.finish(run.words, facts)


def evidence_of(
    coder: Coder, tokens: Tensor, t: int, grid: tuple[int, int], labels: Sequence[str], objects: list[list[Annotation]]
) -> Evidence:
    """What every latent's activity says of each label, from annotated images' tokens (images, positions, C) at timestep t."""
    found = Evidence(latents_in(coder), grid, labels)
    for rows, code in codes(coder, tokens, t):
        found.add(code, objects[rows])
    return found


def latents_in(coder: Coder) -> int:
    """How many latents a coder has."""
    return coder.config.d_sae if isinstance(coder, SAE) else coder.latents


@torch.no_grad()
def codes(sae: Coder, tokens: Tensor, t: int) -> Iterator[tuple[slice, SparseCode]]:
    """The code of a few images' tokens at a time, out of (images, positions, C) at timestep t."""
    for start in range(0, len(tokens), BATCH):
        part = tokens[start : start + BATCH]
        rows, flat = slice(start, start + len(part)), part.flatten(0, 1)
        if isinstance(sae, SAE):
            yield rows, sae.encode_sparse(flat, torch.full((len(flat),), t) if sae.config.t_edges else None)
        else:
            yield rows, sae.encode_sparse(flat)
