"""Scenes are reproducible, their masks true, and captions name everything and place nothing."""

import hashlib
import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsight import SparsightError
from sparsight.worlds.scenes.captions import caption, phrase, prompt_of, vocabulary, words
from sparsight.worlds.scenes.data import TAGS, render_scenes, tags_of
from sparsight.worlds.scenes.render import masks, render, render_with_segments, segment, sprite
from sparsight.worlds.scenes.scene import BACKGROUNDS, KINDS, SIZE, STYLES, Scene, Thing, sample_scene
from sparsight.worlds.scenes.styles import apply_style

indices = st.integers(min_value=0, max_value=10**9)


def test_known_scenes_stay_what_they_are():
    scenes = [sample_scene(1, index) for index in range(20)]
    assert hashlib.sha256(repr(scenes).encode()).hexdigest()[:16] == "ae4f1e2aa659fa25"
    prompts = [prompt_of(1, index, scene) for index, scene in enumerate(scenes)]
    assert hashlib.sha256(repr(prompts).encode()).hexdigest()[:16] == "049ca3c8e989af49"


def test_pixels_are_the_same_bytes_every_time():
    scene = sample_scene(1, 3)
    pixels, owner = render_with_segments(scene)
    assert pixels.shape == (SIZE, SIZE, 3) and pixels.dtype == np.uint8
    assert pixels.tobytes() == render(scene).tobytes() and owner.tobytes() == segment(scene).tobytes()


@given(indices)
@settings(max_examples=200, deadline=None)
def test_scenes_hold_one_to_three_kinds_that_stay_visible(index):
    scene = sample_scene(4, index)
    assert 1 <= len(scene.things) <= 3
    assert len({thing.kind for thing in scene.things}) == len(scene.things)
    for thing in scene.things:
        assert 0 <= thing.left <= SIZE - thing.side and 0 <= thing.top <= SIZE - thing.side
        assert all(thing is other or thing.overlap(other) <= 0.25 for other in scene.things)


def test_every_choice_is_made_about_equally_often():
    scenes = [sample_scene(5, index) for index in range(4000)]
    for style in STYLES:
        assert np.mean([scene.style == style for scene in scenes]) == pytest.approx(1 / 5, abs=0.03)
    for background in BACKGROUNDS:
        assert np.mean([scene.background == background for scene in scenes]) == pytest.approx(1 / 4, abs=0.03)
    for kind in KINDS:
        assert np.mean([kind in tags_of(scene) for scene in scenes]) == pytest.approx(2 / 12, abs=0.03)


def test_places_say_nothing_about_kinds():
    things = [thing for index in range(6000) for thing in sample_scene(6, index).things]
    for kind in KINDS:
        middles = [(t.left + t.side / 2, t.top + t.side / 2) for t in things if t.kind == kind]
        assert np.mean(middles, axis=0) == pytest.approx([32, 32], abs=2.5)


@pytest.mark.parametrize("index", range(12))
def test_a_mask_is_where_the_picture_changes_without_the_object(index):
    """Independent of the renderer's own bookkeeping: the object is painted over by leaving it out."""
    scene = replace(sample_scene(7, index), style="cartoon")
    front = scene.things[-1]  # nothing hides it
    without = replace(scene, things=scene.things[:-1])
    changed = (render(scene).astype(int) - render(without)).any(axis=-1)
    mask = masks(scene)[front.kind]
    assert not (mask & ~changed).sum() > 0.1 * mask.sum()  # a white thing on snow may change nothing
    _, opacity = sprite(front.kind, front.side)
    touched = np.zeros_like(mask)
    touched[front.top : front.top + front.side, front.left : front.left + front.side] = opacity[..., 0] > 0
    assert not (changed & ~touched).any() and not (mask & ~touched).any()


def test_masks_of_one_scene_never_overlap_and_are_never_empty():
    for index in range(100):
        found = masks(sample_scene(8, index))
        total = sum(mask.astype(int) for mask in found.values())
        assert total.max() <= 1 and min(mask.sum() for mask in found.values()) > 30


def test_what_is_in_front_hides_what_is_behind():
    behind, front = Thing("pig", 20, 20, 24), Thing("apple", 20, 20, 24)
    scene = Scene((behind, front), "room", 30, "cartoon")
    alone = masks(replace(scene, things=(behind,)))["pig"]
    assert masks(scene)["pig"].sum() < 0.5 * alone.sum()
    assert (masks(scene)["apple"] == masks(replace(scene, things=(front,)))["apple"]).all()


@pytest.mark.parametrize("style", STYLES)
def test_a_style_changes_the_whole_picture_and_not_the_layout(style):
    scenes = [replace(sample_scene(9, index), style=style) for index in range(10)]
    for scene in scenes:
        plain = replace(scene, style="cartoon")
        if style != "cartoon":
            moved = np.abs(render(scene).astype(int) - render(plain)).max(axis=-1)
            assert (moved > 4).mean() > 0.5
        assert (segment(scene) == segment(plain)).mean() > (0.93 if style == "pixel" else 0.999)


@given(indices)
@settings(max_examples=200, deadline=None)
def test_captions_name_everything_and_place_nothing(index):
    scene = sample_scene(10, index)
    text = prompt_of(10, index, scene)
    said = set(words(text))
    assert {kind for kind in KINDS if kind in said} == {thing.kind for thing in scene.things}
    assert not said & {"left", "right", "top", "bottom", "above", "below", "behind", "front", "middle", "near", "under"}
    moved = replace(scene, things=tuple(replace(t, left=0, top=0) for t in scene.things), horizon=33)
    assert prompt_of(10, index, moved) == text
    assert said <= set(vocabulary())


def test_the_order_of_nouns_says_nothing_of_what_is_in_front():
    first = [sample_scene(11, i).things[0].kind in words(prompt_of(11, i, sample_scene(11, i)))[:3] for i in range(600)]
    two_or_three = [len(sample_scene(11, i).things) for i in range(600)]
    expected = np.mean([1 / count for count in two_or_three])
    assert np.mean(first) == pytest.approx(expected, abs=0.05)


def test_captions_read_well():
    assert phrase(["cat"], "snow", None) == "a cat in the snow"
    assert phrase(["cat", "apple"], "beach", "pencil") == "a cat and an apple on a beach, pencil drawing"
    assert phrase(["cat", "dog", "umbrella"], None, "night") == "a cat, a dog and an umbrella, at night"
    shortened = {caption(sample_scene(1, 0), random.Random(n), left_out=0.5) for n in range(50)}
    assert len(shortened) == 4


def test_rendered_data_is_read_back_from_its_cache(tmp_path):
    first = render_scenes(3, 5, tmp_path / "s.npy")
    again = render_scenes(3, 4, tmp_path / "s.npy")
    assert (again.pixels == first.pixels[:4]).all() and (again.segments == first.segments[:4]).all()
    assert first.tags().shape == (5, len(TAGS)) and first.tags()[0].sum() == len(first.scenes[0].things) + 1
    assert len(first.join(again)) == 9


def test_unknown_names_are_refused():
    with pytest.raises(SparsightError, match="unknown kind of object"):
        sprite("zebra", 20)
    with pytest.raises(SparsightError, match="unknown style"):
        apply_style("crayon", np.zeros((64, 64, 3), np.float32), np.zeros((64, 64), np.uint8))
