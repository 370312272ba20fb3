"""Concepts with a place: which methods can edit them, on which area, and which latents they take."""

from dataclasses import replace

import pytest
import torch

from baselines.small_text import DOG, noise, small_text, told
from sparsight import Loop, SparsightError
from sparsight.baselines import applicable, edit_images, fit, method
from sparsight.baselines.features import features
from sparsight.concepts import Concept
from sparsight.metrics import quadrant_region

PLACED = Concept("dog there", "dog", "dog", "Dog_there", thing="Dog", place="top-right")
LATENTS = (3, 5)


def data(**more):
    """The small data with latents that were found, and what was asked of the source of latents and of labels."""
    known, asked = small_text(), []

    def latents(concept, by, count):
        asked.append((concept.name, by, count))
        return LATENTS[:count]

    def labels(attribute, numbers):
        asked.append(attribute)
        return known.sources["labels"]()(attribute, numbers)

    sources = {**known.sources, "latents": lambda: latents, "labels": lambda: labels, **more}
    return replace(known, sources=sources, opened={}), asked


@pytest.mark.parametrize(
    ("name", "options", "concept", "why"),
    [
        ("tinaz_global", {}, PLACED, "everywhere alike"),
        ("surkov_features", {}, PLACED, "everywhere alike"),
        ("prompt_to_prompt", {}, PLACED, "no words tell this concept"),
        ("masactrl", {}, PLACED, "no words tell this concept"),
        ("detect_and_replace", {"to": "concept"}, DOG, "this concept has none"),
        ("tinaz_spatial", {"area": "concept"}, PLACED, None),
        ("tinaz_spatial", {"area": "concept"}, DOG, None),
        ("surkov_features", {"area": "concept"}, PLACED, None),
        ("detect_and_replace", {"to": "concept"}, PLACED, None),
        ("tinaz_global", {}, DOG, None),
        ("prompt_to_prompt", {}, DOG, None),
        ("boundary_diffusion", {}, DOG, "stores of prompts do not keep"),
    ],
)
def test_what_a_method_cannot_do_is_said_concept_by_concept(name, options, concept, why):
    found = applicable(method(name, **options), data()[0], concept)
    assert found is None if why is None else why in found


def test_fitting_what_cannot_be_says_why():
    with pytest.raises(SparsightError, match="is not applicable: it edits by words"):
        fit(method("prompt_to_prompt"), PLACED, data()[0])


@pytest.mark.parametrize("name", ["tinaz_spatial", "surkov_features"])
def test_the_area_of_a_concept_is_its_place_and_everywhere_without_one(name):
    known, _ = data()
    model, loop = known.model, Loop(5, "plain")
    for concept, area in ((PLACED, "top-right"), (DOG, "everywhere")):
        own, named = (fit(method(name, latents=(2,), area=a), concept, known) for a in ("concept", area))
        one, other = (edit_images(model, e, 0.7, noise(), loop, told()) for e in (own, named))
        assert torch.equal(one, other)
        assert not torch.equal(one, edit_images(model, own, 0, noise(), loop, told()))


def test_latents_are_asked_of_their_source_and_labels_are_the_things():
    known, asked = data()
    assert features(known, PLACED, (), 2, "evidence").latents == LATENTS
    assert asked == [("dog there", "evidence", 2)]
    features(known, PLACED, (), 1)
    assert asked[-1] == "Dog"  # not where it is: the area says that
    by_labels = fit(method("tinaz_spatial", area="concept"), PLACED, known)
    assert torch.equal(by_labels.area.find(None, None, (4, 4)), quadrant_region("top-right", (4, 4)))


def test_found_latents_are_a_need_of_their_own():
    assert "latents" in method("tinaz_global", by="entries").needs
    assert "labels" not in method("tinaz_global", by="entries").needs
    assert "latents" not in method("tinaz_global", by="entries", latents=(1,)).needs
    assert "latents that were found" in applicable(method("surkov_features", by="evidence"), small_text())
    with pytest.raises(SparsightError, match="unknown way to find latents 'entry': did you mean 'entries'"):
        method("tinaz_spatial", by="entry")
