"""Which latents stand for a word at a stage: by their dictionary entries, as in the paper, or as evidence says.

Both are of all images of the run's dictionaries, or of the first `images` of them alone (0: all).
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from sparsight.concepts import ConceptDictionary, Evidence, match_by_labels
from sparsight.errors import SparsightError
from sparsight.pipeline.emergence.dictionaries import evidence_of, make, objects_of
from sparsight.pipeline.emergence.reading import things
from sparsight.pipeline.emergence.recipe import EditConfig
from sparsight.pipeline.emergence.run import stream_name
from sparsight.pipeline.emergence.saes import by_stamp

if TYPE_CHECKING:
    from sparsight.pipeline.emergence.run import EmergenceRun


def object_latents(run: EmergenceRun, config: EditConfig, word: str, stage: str, images: int = 0) -> list[int]:
    """The latents that stand for something with a place, ascending; none where none does.

    By "entries": those of whose entry the word is at least `config.share`, the `config.most` (0: all) with the most objects.
    Styles do not count in the share of an object's word.
    """
    if config.by == "evidence":
        return evidence_at(run, config.site, stage, config.k, images).best(word, config.most)
    dictionary = dictionary_of(run, config, stage, images)
    if word in (*run.world.kinds, *run.world.backgrounds):
        dictionary = things(run, dictionary)
    try:
        hits = dictionary.at_least(share=config.share).find(word)
    except SparsightError:
        return []
    return sorted(hit.latent for hit in (hits[: config.most] if config.most else hits))


def style_latents(
    run: EmergenceRun, config: EditConfig, style: str, stage: str, images: int = 0
) -> tuple[list[int], str]:
    """The latents that stand for a style at a stage, and how they were found; none where none can be.

    By "entries": the `config.most` (0: all) with the best F1 of "this style" against the other styles, out of those of whose
    entry the style is at least `config.share` (the paper picks one by hand). Where no entry holds the style: the partners,
    by labels, of those in the middle stage.
    """
    if config.by == "evidence":
        return evidence_at(run, config.site, stage, config.k, images).best(style, config.most), "evidence"
    own = dictionary_of(run, config, stage, images).only(run.world.styles)
    try:
        return best_of(own, style, config), "its own entry"
    except SparsightError:
        pass
    middle = dictionary_of(run, config, "middle", images).only(run.world.styles)
    try:
        matches = match_by_labels(middle, own, best_of(middle, style, config))
    except SparsightError:
        return [], ""
    return list(dict.fromkeys(match.partner for match in matches)), "matched to the middle stage"


def best_of(dictionary: ConceptDictionary, style: str, config: EditConfig) -> list[int]:
    """The latents with the best F1 of their share of this style and their recall of it."""
    hits = dictionary.at_least(share=config.share).find(style)
    best = sorted(hits, key=lambda hit: (-hit.share * hit.recall / (hit.share + hit.recall), hit.latent))
    return [hit.latent for hit in (best[: config.most] if config.most else best)]


def dictionary_of(run: EmergenceRun, config: EditConfig, stage: str, images: int = 0) -> ConceptDictionary:
    """The dictionary that edits of a stage are found in. Raises `SparsightError` where the run has not made it."""
    stream = stream_name(config.site, stage, "cond")
    name = f"{stream}.k{config.k}"
    if not (run.folder / "dictionaries" / name / "dictionary.json").exists():
        raise SparsightError(
            f"{run.folder} has no concept dictionary {name} yet: go on with `sparsight run` until its stage dictionary"
        )
    if not images:
        return run.dictionary(name)
    numbers = run.numbers("dictionary")[:images]
    tokens = by_stamp(run.store(stream), numbers)
    return make(run, stream, run.sae(stream, config.k), tokens, objects_of(run, numbers), numbers)


@lru_cache(maxsize=8)
def evidence_at(run: EmergenceRun, site: str, stage: str, k: int, images: int = 0) -> Evidence:
    """What latents say of every label at a stage, from the images of the dictionaries; kept, for it reads them all."""
    stream, numbers = stream_name(site, stage, "cond"), run.numbers("dictionary")[: images or None]
    ((t, tokens),) = by_stamp(run.store(stream), numbers).items()
    grid, labels = run.model.site(site).grid, run.dictionary(f"{stream}.k{k}").labels
    return evidence_of(run.sae(stream, k), tokens, t, grid, labels, objects_of(run, numbers))
