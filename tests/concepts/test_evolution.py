"""Cohesion, similarity and matching against loops and closed forms."""

import math

import pytest
import torch

from concepts.test_dictionary import GRID, TABLE
from concepts.test_words import Table
from sparsight.concepts import (
    ConceptDictionary,
    cohesion,
    embed_labels,
    label_agreement,
    match_by_embedding,
    match_by_labels,
    similarity,
)
from sparsight.concepts.entries import Entries
from sparsight.errors import SparsightError

WORDS = Table({"cat": [1.0, 0.0], "dog": [0.6, 0.8], "car": [-1.0, 0.2], "red": [0.1, -1.0]})


def of(entries, latents=8, words=WORDS):
    """A dictionary from {latent: {label: count}}."""
    labels = sorted({label for own in entries.values() for label in own})
    rows = [(latent, labels.index(label), count) for latent, own in entries.items() for label, count in own.items()]
    seen = torch.full((len(labels),), 99)
    return ConceptDictionary(
        latents, GRID, tuple(labels), seen, Entries.of(rows), embed_labels(words, labels), words.name, 99
    )


ENTRIES = {0: {"cat": 3, "dog": 1}, 2: {"car": 2}, 5: {"dog": 1, "car": 1, "red": 4, "tree": 7}, 6: {"tree": 2}}


def cos(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)


def slowly(entries, repeats, single):
    vectors = WORDS.table
    values, centres = [], []
    for own in entries.values():
        items = [label for label, count in own.items() for _ in range(count if repeats else 1) if label in vectors]
        if not items or (not single and len(set(items)) == 1):
            continue
        centre = [sum(vectors[item][i] for item in items) / len(items) for i in (0, 1)]
        values.append(sum(cos(vectors[item], centre) for item in items) / len(items))
        centres.append(centre)
    pairs = [cos(a, b) for i, a in enumerate(centres) for j, b in enumerate(centres) if i != j]
    return values, pairs


def moments(values):
    mean = sum(values) / len(values)
    return mean, math.sqrt(sum((v - mean) ** 2 for v in values) / len(values))


@pytest.mark.parametrize("repeats", [True, False])
@pytest.mark.parametrize("single", [True, False])
def test_cohesion_and_similarity_are_the_papers_sums(repeats, single):
    values, pairs = slowly(ENTRIES, repeats, single)
    assert len(values) == (3 if single else 2)
    for found, expected in ((cohesion, values), (similarity, pairs)):
        result = found(of(ENTRIES), repeats=repeats, single=single)
        mean, spread = moments(expected)
        assert result.mean.value == pytest.approx(mean, abs=1e-6) and result.spread == pytest.approx(spread, abs=1e-5)
        assert result.mean.n == len(values) and result.to_dict()["spread"] == result.spread


def test_single_item_concepts_are_perfectly_cohesive():
    assert cohesion(of({0: {"cat": 5}, 1: {"dog": 1}})).mean.value == pytest.approx(1)
    assert math.isnan(cohesion(of({0: {"cat": 5}}), single=False).mean.value)
    assert cohesion(of({0: {"cat": 5}}), single=False).to_dict()["spread"] is None


def test_similarity_needs_two_concepts():
    lonely = similarity(of({0: {"cat": 5}}))
    assert math.isnan(lonely.mean.value) and lonely.to_dict()["value"] is None
    assert similarity(of({0: {"cat": 1}, 1: {"cat": 2}})).mean.value == pytest.approx(1)


def test_the_interval_of_similarity_resamples_concepts():
    """Against a slow bootstrap over concepts whose pairs leave out a concept with itself."""
    generator = torch.Generator().manual_seed(0)
    table = {f"word{i}": torch.randn(2, generator=generator).tolist() for i in range(30)}
    words = Table({f"w{chr(97 + i)}": v for i, v in enumerate(table.values()) if i < 26})
    dictionary = of({i: {label: 1} for i, label in enumerate(words.table)}, 40, words)
    result = similarity(dictionary)
    unit = torch.nn.functional.normalize(torch.tensor(list(words.table.values())), dim=1)
    cosine, count, draws = unit @ unit.T, len(unit), []
    for _ in range(1000):
        rows = torch.randint(count, (count,), generator=generator)
        other = rows[:, None] != rows[None]
        draws.append(float(cosine[rows][:, rows][other].mean()))
    low, high = torch.tensor(draws).quantile(torch.tensor([0.025, 0.975])).tolist()
    assert result.mean.low == pytest.approx(low, abs=0.03) and result.mean.high == pytest.approx(high, abs=0.03)


def test_matching_finds_the_same_concept_under_another_number():
    early = of({1: {"cat": 4, "dog": 1}, 2: {"car": 3}, 4: {"red": 2}})
    late = of({7: {"cat": 5}, 3: {"car": 1, "red": 1}, 0: {"red": 3}, 5: {"tree": 9}})
    found = match_by_embedding(early, late)
    assert [(m.latent, m.partner) for m in found] == [(1, 7), (2, 3), (4, 0)]
    centre = [(4 * 1.0 + 0.6) / 5, 0.8 / 5]
    assert found[0].similarity == pytest.approx(cos(centre, [1.0, 0.0])) and found[2].similarity == pytest.approx(1)
    assert match_by_embedding(early, late, [2]) == found[1:2]
    assert [(m.latent, m.partner) for m in match_by_embedding(late, early)] == [(0, 4), (3, 2), (7, 1)]


def test_matching_by_labels_is_an_overlap():
    early = of({1: {"cat": 4, "dog": 1}, 2: {"tree": 3}})
    late = of({7: {"cat": 1, "dog": 1}, 3: {"tree": 1, "car": 1}, 0: {"red": 3}})
    by_set = match_by_labels(early, late, weighted=False)
    assert by_set == [(1, 7, 1.0), (2, 3, 0.5)]
    by_share = match_by_labels(early, late)
    assert [(m.latent, m.partner) for m in by_share] == [(1, 7), (2, 3)]
    assert by_share[0].similarity == pytest.approx((0.5 + 0.2) / (0.8 + 0.5)) and by_share[
        1
    ].similarity == pytest.approx(0.5 / 1.5)


def test_what_cannot_match_is_refused():
    some = of({1: {"cat": 4}, 2: {"tree": 1}})
    for match in (match_by_embedding, match_by_labels):
        with pytest.raises(SparsightError, match="latent 3 has no entry"):
            match(some, some, [3])
        with pytest.raises(SparsightError, match="latent 99 has no entry"):
            match(some, some, [99])
        with pytest.raises(SparsightError, match="the other dictionary has no entry"):
            match(some, of({}))
    with pytest.raises(SparsightError, match="latent 2 has no entry"):
        match_by_embedding(some, some, [2])  # its only label has no vector
    other = ConceptDictionary(
        8, GRID, some.labels, some.seen, some.entries, embed_labels(TABLE, some.labels), "others", 9
    )
    with pytest.raises(SparsightError, match="different word vectors: table and others"):
        match_by_embedding(some, other)


def test_agreement_counts_latents_that_keep_their_commonest_label():
    later = {0: {"cat": 1}, 2: {"dog": 2, "car": 1}, 6: {"tree": 1, "car": 5}, 7: {"cat": 1}}
    found = label_agreement(of(ENTRIES), of(later))
    assert found.share.n == 3 and found.share.value == pytest.approx(1 / 3)  # 0 keeps "cat"; 2 and 6 change
    # shuffled: {cat, car, tree} against {cat, dog, car} agree in 2 of 9 pairs
    assert found.chance == pytest.approx(2 / 9)
    assert label_agreement(of(ENTRIES), of({1: {"cat": 1}})).to_dict()["chance"] is None
    with pytest.raises(SparsightError, match="one by one"):
        label_agreement(of(ENTRIES), of(later, latents=9))
