"""How concepts change over generation: purity and likeness of a dictionary's concepts, and which belong together.

Source: Tinaz et al. 2025, appendix E.1 and Table 3 ("cohesion" and "separability"), section 4.3 (matching by the
highest similarity of concept embeddings, since latents of SAEs of different steps do not correspond by number).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sparsight.concepts.dictionary import ConceptDictionary
from sparsight.concepts.entries import Entries
from sparsight.errors import SparsightError
from sparsight.metrics.bootstrap import Interval, bootstrap, row_mean


class Temporal(NamedTuple):
    """A figure of Table 3: mean with its bootstrap interval over concepts (n of them), and its `spread`.

    The spread is the standard deviation over concepts, for similarity over pairs of them; that the paper's "+-" is
    this is INFERRED.
    """

    mean: Interval
    spread: float

    def to_dict(self) -> dict[str, Any]:
        """Fit for JSON: value, low, high, n, spread."""
        return {**self.mean.to_dict(), "spread": self.spread if math.isfinite(self.spread) else None}


def cohesion(dictionary: ConceptDictionary, *, repeats: bool = True, single: bool = True, seed: int = 0) -> Temporal:
    """How alike a concept's items are: the mean over concepts of the mean cosine of an item and the concept's centre.

    The paper writes "distance", yet calls a larger value purer: it must be similarity (INFERRED). `repeats` counts
    every object, or every label once. A concept with a single label has cohesion 1; `single=False` leaves those out
    (the paper does not discuss them).
    """
    entries, centres = _concepts(dictionary, repeats, single)
    vectors = dictionary.embedded.vectors
    weight = entries.counts.float() if repeats else torch.ones(len(entries.counts))
    similar = F.cosine_similarity(vectors[entries.label], centres[entries.latent], dim=1)
    total = torch.zeros(dictionary.latents).index_add_(0, entries.latent, weight)
    values = torch.zeros(dictionary.latents).index_add_(0, entries.latent, weight * similar) / total.clamp_min(1e-12)
    kept = values[entries.latent.unique()]
    return Temporal(bootstrap(row_mean, kept, seed=seed), float(kept.std(correction=0)) if len(kept) else math.nan)


def similarity(dictionary: ConceptDictionary, *, repeats: bool = True, single: bool = True, seed: int = 0) -> Temporal:
    """How alike concepts are to each other ("separability", lower is better): mean cosine of all pairs of centres.

    Options as in `cohesion`. The bootstrap resamples concepts; a concept drawn twice makes no pair with itself.
    """
    entries, centres = _concepts(dictionary, repeats, single)
    unit = F.normalize(centres[entries.latent.unique()].double(), dim=1).numpy()
    count = len(unit)
    if count < 2:
        return Temporal(Interval(math.nan, math.nan, math.nan, count), math.nan)

    def mean(rows: np.ndarray) -> np.ndarray:
        weight = np.stack([np.bincount(row.astype(np.int64), minlength=count) for row in rows]).astype(np.float64)
        own = np.square(weight).sum(1)
        pairs = np.square(weight.sum(1)) - own
        return (np.square(weight @ unit).sum(1) - own) / np.where(pairs > 0, pairs, np.nan)

    interval = bootstrap(mean, np.arange(count), seed=seed)
    square = (np.square(unit.T @ unit).sum() - count) / (count * (count - 1))  # mean square of the off-diagonal cosines
    return Temporal(interval, math.sqrt(max(0.0, square - interval.value**2)))


def _concepts(dictionary: ConceptDictionary, repeats: bool, single: bool) -> tuple[Entries, Tensor]:
    """The entries whose labels have vectors, and the centres (latents, d)."""
    entries = dictionary.entries.where(dictionary.embedded.known[dictionary.entries.label])
    if not single:
        labels = torch.bincount(entries.latent, minlength=dictionary.latents)
        entries = entries.where(labels[entries.latent] > 1)
    return entries, dictionary.embeddings(repeats)[0]


class Agreement(NamedTuple):
    """Whether latents mean the same at two stages: share of those with an entry at both whose commonest label agrees.

    `chance` is the share that would agree if the latents of one stage were shuffled.
    """

    share: Interval
    chance: float

    def to_dict(self) -> dict[str, Any]:
        """Fit for JSON: value, low, high, n (latents), chance."""
        return {**self.share.to_dict(), "chance": self.chance if math.isfinite(self.chance) else None}


def label_agreement(stage: ConceptDictionary, other: ConceptDictionary, seed: int = 0) -> Agreement:
    """Latents with the same number at two stages: meant for an SAE across time, whose latents keep their number.

    SAEs of different steps give the control: theirs correspond by their common start at best (the limitation that
    Tinaz et al. name). Raises `SparsightError` for dictionaries of different sizes.
    """
    if stage.latents != other.latents:
        raise SparsightError(
            f"dictionaries of {stage.latents} and {other.latents} latents cannot be compared one by one"
        )
    mine, theirs = _commonest(stage), _commonest(other)
    both = sorted(mine.keys() & theirs.keys())
    same = torch.tensor([float(mine[latent] == theirs[latent]) for latent in both])
    counts = [Counter(names[latent] for latent in both) for names in (mine, theirs)]
    pairs = sum(count * counts[1][label] for label, count in counts[0].items())
    return Agreement(bootstrap(row_mean, same, seed=seed), pairs / len(both) ** 2 if both else math.nan)


def _commonest(dictionary: ConceptDictionary) -> dict[int, str]:
    """The label that each latent with an entry met most often."""
    return {latent: dictionary.labels_of(latent)[0][0] for latent in dictionary.entries.latent.unique().tolist()}


class Match(NamedTuple):
    """A latent of one stage, its partner in another, and how alike they are (cosine, or overlap in [0, 1])."""

    latent: int
    partner: int
    similarity: float


def match_by_embedding(
    stage: ConceptDictionary, other: ConceptDictionary, latents: Sequence[int] | None = None, *, repeats: bool = True
) -> list[Match]:
    """For latents of `stage` (default: all with an entry) the latent of `other` whose embedding is nearest (section 4.3).

    Both dictionaries must have the same word vectors. Asked for a latent without an entry it raises `SparsightError`.
    """
    if stage.words != other.words:
        raise SparsightError(f"the dictionaries have different word vectors: {stage.words} and {other.words}")
    (mine, has), (theirs, theirs_has) = stage.embeddings(repeats), other.embeddings(repeats)
    chosen = _chosen(has, latents)
    similar = F.normalize(mine[chosen], dim=1) @ F.normalize(theirs, dim=1).T
    return _best(chosen, similar, theirs_has)


def match_by_labels(
    stage: ConceptDictionary, other: ConceptDictionary, latents: Sequence[int] | None = None, *, weighted: bool = True
) -> list[Match]:
    """The same by what the entries share: sum of the smaller over sum of the larger shares of each label.

    With `weighted` (default) a label's share is that of the entry's objects; without, the overlap is that of the two
    sets of labels (Jaccard). Needs no word vectors.
    """
    names = sorted({*stage.labels, *other.labels})
    mine, theirs = _shares(stage, names, weighted), _shares(other, names, weighted)
    chosen = _chosen(mine.sum(1) > 0, latents)
    rows = [
        torch.minimum(row, theirs).sum(1) / torch.maximum(row, theirs).sum(1).clamp_min(1e-12) for row in mine[chosen]
    ]
    similar = torch.stack(rows) if rows else torch.zeros(0, other.latents)
    return _best(chosen, similar, theirs.sum(1) > 0)


def _shares(dictionary: ConceptDictionary, names: list[str], weighted: bool) -> Tensor:
    place = torch.tensor([names.index(label) for label in dictionary.labels], dtype=torch.int64)
    table, entries = torch.zeros(dictionary.latents, len(names)), dictionary.entries
    table[entries.latent, place[entries.label]] = entries.counts.float() if weighted else 1.0
    return table / table.sum(1, keepdim=True).clamp_min(1.0) if weighted else table


def _chosen(has: Tensor, latents: Sequence[int] | None) -> list[int]:
    chosen = has.nonzero().flatten().tolist() if latents is None else list(latents)
    for latent in chosen:
        if not 0 <= latent < len(has) or not has[latent]:
            raise SparsightError(f"latent {latent} has no entry in the dictionary, so nothing can match it")
    return chosen


def _best(chosen: list[int], similar: Tensor, has: Tensor) -> list[Match]:
    if not bool(has.any()):
        raise SparsightError("the other dictionary has no entry, so nothing can match")
    best = similar.masked_fill(~has, -torch.inf).max(1)
    rows = zip(chosen, best.indices.tolist(), best.values.tolist(), strict=True)
    return [Match(latent, partner, value) for latent, partner, value in rows]
