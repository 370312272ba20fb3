"""Faces are reproducible, their attributes consistent, and a counterfactual changes what it says and no more."""

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsight.errors import SparsightError
from sparsight.worlds.avatars.faces import ATTRIBUTES, PRIORS, attributes, counterfactual, related, sample_face
from sparsight.worlds.avatars.render import PARTS, SIZE, masks, render, render_svg

indices = st.integers(min_value=0, max_value=10**9)


def test_a_face_follows_from_seed_and_index():
    assert sample_face(1, 7) == sample_face(1, 7)
    assert len({sample_face(seed, index) for seed in (1, 2) for index in range(50)}) > 95


def test_known_faces_stay_what_they_are():
    faces = [sample_face(1, index) for index in range(20)]
    assert hashlib.sha256(repr(faces).encode()).hexdigest()[:16] == "872019431b10f61f"
    svgs = "".join(render_svg(face) for face in faces)
    assert hashlib.sha256(svgs.encode()).hexdigest()[:16] == "4928de702a6bfa86"


def test_pixels_are_the_same_bytes_every_time():
    face = sample_face(1, 3)
    pixels = render(face)
    assert pixels.shape == (SIZE, SIZE, 3) and pixels.dtype == np.uint8
    assert pixels.tobytes() == render(face).tobytes()
    assert render(face, 32).shape == (32, 32, 3)


def test_factors_follow_their_priors():
    faces = [sample_face(3, index) for index in range(4000)]
    for factor, prior in PRIORS.items():
        assert sum(prior.values()) == pytest.approx(1)
        for value, chance in prior.items():
            assert np.mean([getattr(face, factor) == value for face in faces]) == pytest.approx(chance, abs=0.03)


@given(indices)
@settings(max_examples=200, deadline=None)
def test_attributes_never_contradict_each_other(index):
    true = {name for name, holds in attributes(sample_face(4, index)).items() if holds}
    colors = {"Black_Hair", "Brown_Hair", "Blond_Hair", "Gray_Hair", "Red_Hair"}
    assert len(true & colors) == (0 if true & {"Bald", "Wearing_Hat"} else 1)
    for pair in (
        ("Eyeglasses", "Sunglasses"),
        ("Beard", "Mustache"),
        ("Bald", "Long_Hair"),
        ("Pale_Skin", "Dark_Skin"),
    ):
        assert not set(pair) <= true
    assert "Sunglasses" not in true or not true & {"Eyes_Closed", "Narrow_Eyes", "Wide_Eyes"}


@given(indices, st.sampled_from(ATTRIBUTES))
@settings(max_examples=300, deadline=None)
def test_a_counterfactual_changes_only_what_it_may(index, attribute):
    face = sample_face(4, index)
    before = attributes(face)
    changed = counterfactual(face, attribute, not before[attribute])
    if changed is None:
        return
    after = attributes(changed)
    assert after[attribute] != before[attribute]
    assert {name for name in ATTRIBUTES if after[name] != before[name]} <= {attribute, *related(attribute)}
    assert sum(getattr(face, factor) != getattr(changed, factor) for factor in PRIORS) == 1


def test_a_counterfactual_to_what_already_holds_is_the_face_itself():
    face = sample_face(4, 1)
    assert all(counterfactual(face, name, value) is face for name, value in attributes(face).items())


@pytest.mark.parametrize(
    ("attribute", "rows"),
    [("Smiling", (36, 64)), ("Arched_Eyebrows", (16, 36)), ("Eyes_Closed", (20, 44)), ("Beard", (24, 64))],
)
def test_a_counterfactual_is_local_in_the_image(attribute, rows):
    seen = 0
    for index in range(30):
        face = sample_face(4, index)
        changed = counterfactual(face, attribute, not attributes(face)[attribute])
        if changed is None:
            continue
        where = np.nonzero(np.any(render(face) != render(changed), axis=-1))
        seen += len(where[0]) > 0
        assert all(rows[0] <= row < rows[1] for row in where[0])
    assert seen > 5


def test_related_is_symmetric_and_knows_its_names():
    for name in ATTRIBUTES:
        assert name not in related(name)
    assert "Eyeglasses" in related("Sunglasses") and "Sunglasses" in related("Eyeglasses")
    with pytest.raises(SparsightError, match="Smiling"):
        related("Smilling")
    with pytest.raises(SparsightError, match="unknown attribute"):
        counterfactual(sample_face(1, 0), "Nose", True)


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
def test_a_planted_correlation_has_its_strength(strength):
    faces = [sample_face(6, index, ("Smiling", "Beard", strength)) for index in range(1500)]
    equal = np.mean([attributes(face)["Smiling"] == attributes(face)["Beard"] for face in faces])
    assert equal == pytest.approx(0.5 + 0.5 * strength, abs=0.05)


def test_no_correlation_leaves_the_stream_alone_and_a_bad_one_is_refused():
    assert sample_face(6, 5, ("Smiling", "Beard", 0.0)) == sample_face(6, 5)
    with pytest.raises(SparsightError, match="between 0 and 1"):
        sample_face(6, 5, ("Smiling", "Beard", 1.5))


def test_masks_show_each_part_where_it_is():
    for index in range(12):
        face = sample_face(7, index)
        found = masks(face)
        assert tuple(found) == PARTS
        assert all(mask.shape == (SIZE, SIZE) and mask.dtype == bool for mask in found.values())
        assert found["glasses"].any() == (face.glasses != "none")
        assert found["beard"].any() == (face.facial_hair != "none")
        assert not found["mouth"][:32].any()
        assert found["hair"].any() == (face.top not in ("none", "turban", "winterHat03"))
