"""Word vectors: where a label lies among all words, behind one small protocol.

Tinaz et al. 2025 (3.3) take Word2Vec; which vectors is not said (the notes suggest word2vec-google-news-300, INFERRED).
`open_words` opens any of the implementations by one line of text, which an artefact can remember.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from sparsight.concepts.nouns import words
from sparsight.errors import SparsightError, unknown

KINDS = ("wordllama", "word2vec:FILE", "clip:FOLDER")


class WordVectors(Protocol):
    """A vector for every known word."""

    name: str  # the line that `open_words` opens it by
    size: int  # d

    def known(self, word: str) -> bool:
        """Whether there is a vector for `word`."""
        ...

    def vectors(self, words: Sequence[str]) -> Tensor:
        """The vectors (n, d) fp32 of known words; an unknown one is a `SparsightError`."""
        ...


class Embedded(NamedTuple):
    """Labels as vectors.

    `vectors` (n, d) fp32, zero for labels of which no word is known; `known` (n,) bool says which have a vector;
    `skipped` are the words that have none, each with the number of labels that it stands in.
    """

    vectors: Tensor
    known: Tensor
    skipped: dict[str, int]


def embed_labels(source: WordVectors, labels: Sequence[str]) -> Embedded:
    """Each label as the mean of the vectors of its words; unknown words are skipped and counted.

    What the paper does with labels of several words is not said (INFERRED: the mean, as for the words of an entry).
    """
    parts = [words(label) or [label] for label in labels]
    kept = [[word for word in own if source.known(word)] for own in parts]
    vectors = torch.zeros(len(labels), source.size)
    vocabulary = sorted({word for own in kept for word in own})
    if vocabulary:
        place, table = {word: i for i, word in enumerate(vocabulary)}, source.vectors(vocabulary).float()
        for row, own in enumerate(kept):
            if own:
                vectors[row] = table[[place[word] for word in own]].mean(0)
    skipped: dict[str, int] = {}
    for own in parts:
        for word in {word for word in own if not source.known(word)}:
            skipped[word] = skipped.get(word, 0) + 1
    return Embedded(vectors, torch.tensor([bool(own) for own in kept], dtype=torch.bool), skipped)


def embed_word(source: WordVectors, word: str, offered: Iterable[str] = ()) -> Tensor:
    """The vector (d,) of a word or label; one without any is a `SparsightError` that offers the nearest of `offered`."""
    found = embed_labels(source, [word])
    if not word.strip():
        raise SparsightError("the word is empty, so it has no vector")
    if not bool(found.known[0]):
        offered = list(offered)
        if offered:
            raise unknown(f"word (of the vectors {source.name})", word, offered)
        raise SparsightError(f"the word {word!r} has no vector in {source.name}")
    return found.vectors[0]


def open_words(text: str = "wordllama") -> WordVectors:
    """Word vectors by name: "wordllama" (in the package of that name), "word2vec:FILE" or "clip:FOLDER" (or a Hub id)."""
    kind, _, rest = text.partition(":")
    if kind == "wordllama" and not rest:
        from sparsight.concepts.words_wordllama import WordLlama

        return WordLlama()
    if kind == "word2vec" and rest:
        from sparsight.concepts.words_word2vec import Word2Vec

        return Word2Vec(rest)
    if kind == "clip" and rest:
        from sparsight.concepts.words_clip import ClipWords

        return ClipWords(rest)
    raise unknown("word vectors", text, KINDS)
