"""What methods learn from, out of the CASL run of a seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torch import Tensor

from sparsight.baselines.casl import learned_alignments
from sparsight.baselines.data import FitData
from sparsight.concepts.concept import Concept
from sparsight.pipeline.casl.editing import window
from sparsight.pipeline.casl.openers import open_alignment, open_sae, open_store
from sparsight.pipeline.casl.run import CaslRun

if TYPE_CHECKING:
    from sparsight.pipeline.compare.avatars import AvatarsSubject

PAIRS = 16  # images before and after an edit, for methods that learn from such


def fit_data(subject: AvatarsSubject, casl: CaslRun, images: int = 0) -> FitData:
    """All training images of a run; or the first `images` of its store, from which alignments are then learned anew."""
    numbers = (casl.train_numbers + casl.held_out_numbers)[:images] if images else casl.train_numbers
    data = FitData(
        subject.model, casl.recipe.harvest.site, window(casl), tuple(numbers), subject.loop, casl.recipe.seed,
        sources(subject, casl),
    )  # fmt: skip
    if not images:
        return data
    learned = learned_alignments(data, casl.recipe.align)
    return replace(data, sources={**data.sources, "alignments": lambda: learned}, opened={})


def sources(subject: AvatarsSubject, casl: CaslRun) -> dict[str, Callable[[], Any]]:
    """Everything that methods may ask for and this world has."""
    source = subject.world.source("harvest")

    def labels(attribute: str, numbers: Sequence[int]) -> Tensor:
        found: Tensor = source.labels(numbers)[:, subject.attributes.index(attribute)]
        return found

    def pairs(concept: Concept) -> tuple[Tensor, Tensor | None]:
        numbers = subject.eligible("harvest", [str(concept.attribute)], PAIRS)
        return subject.images("harvest", numbers), subject.truth("harvest", numbers, str(concept.attribute))

    return {
        "store": lambda: open_store(casl), "sae": lambda: open_sae(casl), "images": lambda: source,
        "labels": lambda: labels, "pairs": lambda: pairs, "text": lambda: subject.world.clip,
        "alignments": lambda: lambda concept, basis: open_alignment(casl, concept.name, basis),
        "perceptual": lambda: subject.perceptual,
    }  # fmt: skip
