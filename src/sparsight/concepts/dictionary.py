"""The concept dictionary: for each latent of an SAE, the names of the objects that its map was over.

Source: Tinaz et al. 2025, sections 3.3 and 4.1; "CID" there is "latent" here. One dictionary belongs to one SAE.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from sparsight.concepts.dictionary_build import DictionaryConfig
from sparsight.concepts.entries import Entries
from sparsight.concepts.map_statistics import MapStatistics
from sparsight.concepts.nouns import KnownNouns
from sparsight.concepts.words import Embedded, WordVectors, embed_labels, embed_word, open_words
from sparsight.errors import SparsightError, unknown

MATCHES = ("exact", "word")


class Found(NamedTuple):
    """A latent whose entry holds a label: `objects` of it, their `share` of the entry, `recall` of all seen."""

    latent: int
    objects: int
    share: float
    recall: float


@dataclass(frozen=True, eq=False)
class ConceptDictionary:
    """Which labels each latent met, and how often.

    `latents` is the SAE's number of latents, `grid` that of its maps; `labels` all labels that were annotated, `seen`
    (labels,) int64 how many objects of each; `entries` the counts. `embedded` are the labels' vectors, by the word
    vectors named `words`. `images` is how many images it was made of, `config` how, `extra` what else to remember
    (site, timestep, conditioning, digest of the SAE). `statistics` of the maps serve the search for styles.
    """

    latents: int
    grid: tuple[int, int]
    labels: tuple[str, ...]
    seen: Tensor
    entries: Entries
    embedded: Embedded
    words: str
    images: int
    config: DictionaryConfig = field(default_factory=DictionaryConfig)
    extra: Mapping[str, Any] = field(default_factory=dict)
    statistics: MapStatistics | None = None

    def __len__(self) -> int:
        """How many latents have an entry."""
        return len(self.entries.latent.unique())

    def labels_of(self, latent: int) -> list[tuple[str, int]]:
        """The entry of a latent: (label, count), commonest first; empty for a latent that met nothing."""
        if not 0 <= latent < self.latents:
            raise SparsightError(f"latent {latent} does not exist: the SAE has latents 0 to {self.latents - 1}")
        rows = self.entries.where(self.entries.latent == latent)
        pairs = [
            (self.labels[label], count) for label, count in zip(rows.label.tolist(), rows.counts.tolist(), strict=True)
        ]
        return sorted(pairs, key=lambda pair: (-pair[1], pair[0]))

    def find(self, word: str, *, match: str = "exact", source: WordVectors | None = None) -> list[Found]:
        """The latents whose entry holds `word`, most objects first.

        `match` "exact" takes the label of that name (letter case aside), "word" every label that has the word in it,
        in the plural too ("car" finds "red car"); which the paper means is not said (INFERRED: exact). A word that no
        entry holds is a `SparsightError` that offers the nearest labels, by `source` or the dictionary's own vectors.
        """
        if match not in MATCHES:
            raise unknown("match of labels", match, MATCHES)
        wanted = [i for i, label in enumerate(self.labels) if _matches(word, label, match)]
        rows = self.entries.where(torch.isin(self.entries.label, torch.tensor(wanted, dtype=torch.int64)))
        if not len(rows.latent):
            raise self._absent(word, wanted, source)
        counts, total = rows.total(self.latents), self.entries.total(self.latents)
        seen = int(self.seen[wanted].sum())
        found = [Found(i, int(counts[i]), int(counts[i]) / int(total[i]), int(counts[i]) / seen)
                 for i in counts.nonzero().flatten().tolist()]  # fmt: skip
        return sorted(found, key=lambda hit: (-hit.objects, -hit.share, hit.latent))

    def latents_of(self, word: str, *, match: str = "exact", source: WordVectors | None = None) -> list[int]:
        """C_o, the latents whose entry holds `word`, ascending; what a spatial edit acts on. Errors as in `find`."""
        return sorted(hit.latent for hit in self.find(word, match=match, source=source))

    def embeddings(self, repeats: bool = True) -> tuple[Tensor, Tensor]:
        """v_c of every latent, (latents, d), zero without an entry, and which latents have one, (latents,) bool.

        The mean of the vectors of the entry's labels: of every object with `repeats` (default), of every label once
        without. Whether the paper's list keeps repeats is not said.
        """
        return self.entries.mean(self.embedded.vectors, self.embedded.known, self.latents, repeats)

    def nearest(self, vector: Tensor, most: int = 5) -> list[tuple[str, float]]:
        """The labels in some entry whose vectors (d,) lie nearest: (label, cosine), best first."""
        used = self.entries.label.unique()
        used = used[self.embedded.known[used]]
        if vector.shape != self.embedded.vectors.shape[1:]:
            raise SparsightError(
                f"a vector of {self.words} has {self.embedded.vectors.shape[1]} numbers, not {vector.numel()}"
            )
        similar = F.cosine_similarity(self.embedded.vectors[used], vector[None], dim=1)
        best = similar.topk(min(most, len(used)))
        return [(self.labels[int(used[i])], float(v)) for v, i in zip(best.values, best.indices, strict=True)]

    def at_least(self, count: int = 1, share: float = 0.0) -> ConceptDictionary:
        """The same without labels that a latent met less often than `count`, or in less than `share` of its objects."""
        total = self.entries.total(self.latents)[self.entries.latent]
        kept = (self.entries.counts >= count) & (self.entries.counts >= share * total)
        return replace(self, entries=self.entries.where(kept))

    def only(self, labels: Collection[str]) -> ConceptDictionary:
        """The same with entries of these labels alone: a style says nothing of where an object is."""
        kept = torch.tensor([label in labels for label in self.labels], dtype=torch.bool)
        return replace(self, entries=self.entries.where(kept[self.entries.label]))

    def with_words(self, source: WordVectors) -> ConceptDictionary:
        """The same with other word vectors."""
        return replace(self, embedded=embed_labels(source, self.labels), words=source.name)

    def require(self, **facts: Any) -> None:
        """Raise a `SparsightError` unless `extra` says the same, e.g. `require(site="mid_block", conditioning="cond")`."""
        for name, value in facts.items():
            if self.extra.get(name) != value:
                raise SparsightError(f"the dictionary is of {name} {self.extra.get(name)!r}, not {value!r}")

    def require_words(self, source: WordVectors) -> None:
        """Raise a `SparsightError` unless `source` are the vectors that the labels were embedded with."""
        if source.name != self.words or source.size != self.embedded.vectors.shape[1]:
            raise SparsightError(
                f"the dictionary was made with the word vectors {self.words}, not {source.name}; see `with_words`"
            )

    def save(self, folder: str | Path) -> None:
        """Write dictionary.json and dictionary.safetensors."""
        from sparsight.concepts.dictionary_files import save

        save(self, Path(folder))

    @classmethod
    def load(cls, folder: str | Path) -> ConceptDictionary:
        """Read what `save` wrote; what is missing, damaged or inconsistent is a `SparsightError`."""
        from sparsight.concepts.dictionary_files import load_dictionary

        return load_dictionary(Path(folder))

    def _absent(self, word: str, wanted: Sequence[int], source: WordVectors | None) -> SparsightError:
        why = f"was annotated {int(self.seen[list(wanted)].sum())} times, but" if wanted else ""
        try:
            own = source or open_words(self.words)
            self.require_words(own)
            near = self.nearest(embed_word(own, word))
        except SparsightError:  # no vector for it: the nearest in spelling
            used = [self.labels[i] for i in self.entries.label.unique().tolist()]
            return unknown("word in the concept dictionary", word, used)
        shown = ", ".join(f"{label} ({similar:.2f})" for label, similar in near) or "there are none"
        return SparsightError(
            f"the word {word!r} {why + ' ' if why else ''}is in no entry of the concept dictionary; nearest labels: {shown}"
        )


def _matches(word: str, label: str, match: str) -> bool:
    if match == "exact":
        return word.strip().lower() == label.lower()
    return bool(KnownNouns([word])(label))
