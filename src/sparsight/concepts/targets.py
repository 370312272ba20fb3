"""The masks that a prediction of the composition is measured against."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from sparsight.concepts.annotation import Annotation, one_size, united
from sparsight.concepts.words import WordVectors, embed_labels
from sparsight.errors import SparsightError


class Targets(NamedTuple):
    """The masks to predict of a batch: noun `nouns[i]` of image `image[i]` (a place in the batch) is at `masks[i]`.

    image (n,) int64, masks (n, H, W) bool; objects of one label are united. `dropped` counts the nouns left out: not
    annotated in their image, or without a word vector.
    """

    image: Tensor
    nouns: list[str]
    masks: Tensor
    dropped: dict[str, int]


def targets_of(
    objects: Sequence[Sequence[Annotation]], nouns: Sequence[Sequence[str]] | None = None,
    words: WordVectors | None = None, size: tuple[int, int] | None = None,
) -> Targets:  # fmt: skip
    """The targets of a batch of images: the `nouns` of each image's prompt that were annotated there (default: all).

    As section 4.2 has it, nouns that the annotators did not find are dropped, and so are those without a vector in
    `words`. `size` is that of the masks, needed only where no image has any.
    """
    if nouns is not None and len(nouns) != len(objects):
        raise SparsightError(f"{len(objects)} images need as many lists of nouns, not {len(nouns)}")
    shape = one_size(objects) or size or (1, 1)
    rows: list[tuple[int, str, Tensor]] = []
    dropped: dict[str, int] = {}
    for image, own in enumerate(objects):
        masks = united(own)
        for noun in dict.fromkeys(masks if nouns is None else nouns[image]):
            usable = noun in masks and bool(masks[noun].any())
            if usable and (words is None or bool(embed_labels(words, [noun]).known[0])):
                rows.append((image, noun, masks[noun]))
            else:
                dropped[noun] = dropped.get(noun, 0) + 1
    stacked = torch.stack([mask for *_, mask in rows]) if rows else torch.zeros(0, *shape, dtype=torch.bool)
    places = torch.tensor([place for place, *_ in rows], dtype=torch.int64)
    return Targets(places, [noun for _, noun, _ in rows], stacked, dropped)
