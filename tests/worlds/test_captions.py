"""Captions say only what is true, cover everything, and stay in their closed language."""

import random

import pytest

from sparsight.worlds.avatars.captions import (
    TEXT_PAIRS,
    ZERO_SHOT,
    caption,
    contrast,
    draw_facts,
    vocabulary,
    words,
)
from sparsight.worlds.avatars.faces import ATTRIBUTES, attributes, sample_face


@pytest.fixture(scope="module")
def corpus():
    rng = random.Random(0)
    return [caption(sample_face(5, index), rng) for index in range(3000)]


def test_the_same_rng_gives_the_same_caption():
    face = sample_face(5, 0)
    assert caption(face, random.Random(3)) == caption(face, random.Random(3))


def test_captions_use_only_the_vocabulary_and_fit_the_context(corpus):
    known = set(vocabulary())
    assert all(set(words(text)) <= known for text in corpus)
    assert max(len(words(text)) for text in corpus) <= 30  # 32 with start and end


def test_every_attribute_is_both_said_and_denied():
    rng, said = random.Random(0), set()
    for index in range(1500):
        face = sample_face(5, index)
        said.update((name, attributes(face)[name]) for name, _ in draw_facts(face, rng) if name)
    assert said == {(name, value) for name in ATTRIBUTES for value in (True, False)}


def test_some_captions_say_nothing(corpus):
    assert {"a person", "person"} <= set(corpus)


@pytest.mark.parametrize(
    ("attribute", "said"),
    [("Smiling", "smiling person"), ("Beard", "a beard"), ("Bald", "bald person"), ("Wearing_Hat", "wearing a hat")],
)
def test_captions_are_true(attribute, said):
    rng = random.Random(1)
    for index in range(1500):
        face = sample_face(5, index)
        text = caption(face, rng).split(", without")[0].split(", not")[0]
        if said in text and "without" not in text and "not " not in text:
            assert attributes(face)[attribute], (text, face)


def test_contrary_sentences_differ_and_stay_in_the_language():
    rng, known = random.Random(2), set(vocabulary())
    for attribute in ATTRIBUTES * 10:
        absent, present = contrast(attribute, rng)
        assert absent != present and set(words(absent)) | set(words(present)) <= known
        assert "not" in words(absent) or "without" in words(absent) or "closed" in words(absent), absent


def test_prompts_cover_every_attribute_in_the_captions_own_words():
    known = set(vocabulary())
    assert tuple(TEXT_PAIRS) == tuple(ZERO_SHOT) == ATTRIBUTES
    prompts = [text for pair in (*TEXT_PAIRS.values(), *ZERO_SHOT.values()) for text in pair]
    assert all(set(words(text)) <= known for text in prompts)
    assert TEXT_PAIRS["Beard"] == ("person", "person with a beard")
    assert TEXT_PAIRS["Smiling"] == ("person", "smiling person")
    assert all(absent != present for absent, present in ZERO_SHOT.values())


def test_prompts_occur_in_the_captions(corpus):
    bare = {text.removeprefix("a ").removeprefix("an ") for text in corpus}
    for prompt in ("person with a beard", "smiling person", "person with long hair"):
        assert any(text.startswith(prompt) for text in bare)
