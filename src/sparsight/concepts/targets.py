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
    masks = [united(own) for own in objects]
    asked = [list(dict.fromkeys(own if nouns is None else nouns[image])) for image, own in enumerate(masks)]
    said = sorted({noun for own in asked for noun in own})
    known = embed_labels(words, said).known.tolist() if words is not None else [True] * len(said)
    usable = {noun for noun, is_known in zip(said, known, strict=True) if is_known}
    for image, (own, found) in enumerate(zip(asked, masks, strict=True)):
        for noun in own:
            if noun in usable and noun in found and bool(found[noun].any()):
                rows.append((image, noun, found[noun]))
            else:
                dropped[noun] = dropped.get(noun, 0) + 1
    stacked = torch.stack([mask for *_, mask in rows]) if rows else torch.zeros(0, *shape, dtype=torch.bool)
    places = torch.tensor([place for place, *_ in rows], dtype=torch.int64)
    return Targets(places, [noun for _, noun, _ in rows], stacked, dropped)
