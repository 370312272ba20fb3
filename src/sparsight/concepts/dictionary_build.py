"""Builds a concept dictionary: streams codes and annotations of images, and counts where maps and masks agree."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sparsight.concepts.annotation import Annotation, one_size, united
from sparsight.concepts.entries import Entries
from sparsight.concepts.map_statistics import MapStatistics
from sparsight.concepts.maps import NORMALISERS, binary, maps_of, overlap, require_latents
from sparsight.concepts.words import WordVectors, embed_labels, open_words
from sparsight.errors import SparsightError, unknown
from sparsight.sae.sparsity import SparseCode

if TYPE_CHECKING:
    from sparsight.concepts.dictionary import ConceptDictionary


@dataclass(frozen=True)
class DictionaryConfig:
    """How maps meet masks (Tinaz et al. 2025, section 4.1: threshold 0.1, IoU above 0.5).

    The rest is not said there; the defaults are INFERRED. `normaliser` of a map before the threshold: "minmax", "max",
    "none", or "global", which divides by a latent's largest activation over all images. `resize`: "nearest" brings the
    map up to the mask, "grid" the mask down to the map. `unite`: masks of one label in an image count as one object.
    """

    threshold: float = 0.1
    iou: float = 0.5
    normaliser: str = "minmax"
    resize: str = "nearest"
    unite: bool = False

    def __post_init__(self) -> None:
        if self.normaliser not in (*NORMALISERS, "global"):
            raise unknown("map normaliser", self.normaliser, (*NORMALISERS, "global"))
        if self.resize not in ("nearest", "grid"):
            raise unknown("resizing of maps and masks", self.resize, ("nearest", "grid"))
        if self.threshold < 0 or not 0 <= self.iou < 1:
            raise SparsightError(
                f"a dictionary needs a threshold of 0 or more and an IoU in [0, 1), not {self.threshold} and {self.iou}"
            )


class DictionaryBuilder:
    """Counts (latent, label) pairs, a batch of images at a time.

    `latents` is the SAE's number of latents, `grid` (height, width) of its maps. `scale` (latents,), as
    `largest_activations` gives it, is needed for the normaliser "global" only.
    """

    def __init__(
        self, latents: int, grid: tuple[int, int], config: DictionaryConfig | None = None, scale: Tensor | None = None
    ) -> None:
        self.latents, self.grid, self.config = latents, grid, config or DictionaryConfig()
        if (self.config.normaliser == "global") != (scale is not None):
            raise SparsightError('a scale of the latents goes with the normaliser "global", and only with it')
        self.scale, self.images = scale, 0
        self.counts: Counter[tuple[int, str]] = Counter()
        self.seen: Counter[str] = Counter()
        self.statistics = MapStatistics.empty(latents, grid[0] * grid[1])

    def add(
        self, code: SparseCode, objects: Sequence[Sequence[Annotation]], numbers: Sequence[int] | None = None
    ) -> None:
        """Add a batch: the code of all its images' tokens, and the objects of each image.

        `numbers` are the images' numbers, for the list of each latent's top images. Raises `SparsightError` for codes
        of another grid or SAE, and masks of several sizes, or smaller than the grid.
        """
        require_latents(code, self.latents)
        maps = maps_of(_on_cpu(code), len(objects), self.grid)
        positions = self.grid[0] * self.grid[1]
        size = one_size(objects)
        ids = list(numbers) if numbers is not None else list(range(self.images, self.images + len(objects)))
        if self.config.unite:
            objects = [[Annotation.of(label, mask) for label, mask in united(own).items()] for own in objects]
        if size is not None:
            how = "max" if self.config.normaliser == "global" else self.config.normaliser
            above = binary(maps, positions, self.config.threshold, how, self.scale)
            self._count(overlap(above, objects, size, self.grid, self.config.resize), maps.latent, objects)
        self.statistics.add(maps, ids)
        self.images += len(objects)

    def _count(self, found: tuple[Tensor, Tensor], latent: Tensor, objects: Sequence[Sequence[Annotation]]) -> None:
        iou, number = found
        names = [found.label for own in objects for found in own]
        self.seen.update(names)
        pairs, places = ((iou > self.config.iou) & (number >= 0)).nonzero(as_tuple=True)
        hits = zip(latent[pairs].tolist(), number[pairs, places].tolist(), strict=True)
        self.counts.update((unit, names[place]) for unit, place in hits)

    def finish(self, words: WordVectors | None = None, extra: Mapping[str, Any] | None = None) -> ConceptDictionary:
        """The dictionary of all that was added, its labels embedded by `words` (default: wordllama's)."""
        from sparsight.concepts.dictionary import ConceptDictionary

        source = words or open_words()
        labels = tuple(sorted(self.seen))
        place = {label: i for i, label in enumerate(labels)}
        entries = Entries.of((latent, place[label], count) for (latent, label), count in self.counts.items())
        seen = torch.tensor([self.seen[label] for label in labels], dtype=torch.int64)
        return ConceptDictionary(
            self.latents, self.grid, labels, seen, entries, embed_labels(source, labels), source.name, self.images,
            self.config, dict(extra or {}), self.statistics,
        )  # fmt: skip


def build_dictionary(
    batches: Iterable[tuple[SparseCode, Sequence[Sequence[Annotation]]]], latents: int, grid: tuple[int, int],
    words: WordVectors | None = None, config: DictionaryConfig | None = None, *, scale: Tensor | None = None,
    extra: Mapping[str, Any] | None = None,
) -> ConceptDictionary:  # fmt: skip
    """The dictionary of a stream of (code of a batch of images, objects of each image); see `DictionaryBuilder`."""
    builder = DictionaryBuilder(latents, grid, config, scale)
    for code, objects in batches:
        builder.add(code, objects)
    return builder.finish(words, extra)


def largest_activations(codes: Iterable[SparseCode], latents: int) -> Tensor:
    """Each latent's largest activation over all codes, (latents,): the scale of the normaliser "global"."""
    largest = torch.zeros(latents)
    for code in codes:
        largest.scatter_reduce_(0, code.indices.cpu(), code.values.detach().float().cpu(), "amax")
    return largest


def _on_cpu(code: SparseCode) -> SparseCode:
    return SparseCode(code.indices.cpu(), code.values.detach().float().cpu(), code.offsets.cpu())
