"""The judges of scenes against the renderer, which knows, and against arithmetic by hand."""

from types import SimpleNamespace

import pytest
import torch

from sparsight import SparsightError
from sparsight.metrics import QUADRANTS
from sparsight.worlds.scenes.annotators import SEGMENTS
from sparsight.worlds.scenes.judging import (
    ATTRIBUTES,
    JUDGES,
    PLACES,
    Annotators,
    against,
    recognisable,
    related,
)
from sparsight.worlds.scenes.scene import BACKGROUNDS, KINDS, STYLES
from sparsight.worlds.scenes.world import Scenes, ScenesWorld

COUNT = 40


@pytest.fixture(scope="module")
def world():
    return ScenesWorld()


def truth(scenes, numbers):
    """Every attribute of rendered scenes, by counting the renderer's own pixels."""
    found = torch.zeros(len(numbers), len(ATTRIBUTES), dtype=torch.bool)
    for row, pixels in enumerate(scenes.segments(numbers)):
        scene = scenes.scene(numbers[row])
        names = {scene.style, scene.background, *(thing.kind for thing in scene.things)}
        for kind in {thing.kind for thing in scene.things}:
            own = pixels == KINDS.index(kind) + 1
            quarters = [own[y : y + 32, x : x + 32].sum() for y in (0, 32) for x in (0, 32)]
            names |= {f"{kind}_{q}" for q, part in zip(QUADRANTS, quarters, strict=True) if 2 * part > own.sum()}
        for name in names:
            found[row, ATTRIBUTES.index(name)] = True
    return found


@pytest.mark.parametrize("name", JUDGES)
def test_judges_say_what_the_renderer_knows(world, name):
    scenes, numbers = Scenes("held-out"), list(range(COUNT))
    wanted, said = truth(scenes, numbers), JUDGES[name](world)(scenes.batch(numbers)) > 0
    sizes = [len(STYLES), len(KINDS), len(BACKGROUNDS), len(PLACES)]
    for own, by in zip(wanted.split(sizes, 1), said.split(sizes, 1), strict=True):
        assert (own == by).float().mean() > 0.98
    placed = wanted[:, -len(PLACES) :]
    assert said[:, -len(PLACES) :][placed].float().mean() > 0.7


def test_scenes_are_recognised_and_noise_is_not(world):
    assert recognisable(world, Scenes("held-out").batch(range(8))).all()
    noise = torch.randn(8, 3, 64, 64, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    assert not recognisable(world, noise)[1:].any()


def saying(logits):
    """A network with one answer."""
    return lambda pixel_values: SimpleNamespace(logits=logits)


def test_a_place_is_the_share_of_the_segmenters_mass():
    """A segmenter that is sure of 100 pixels of a cat, 75 of them at the top right."""
    logits = torch.zeros(1, len(SEGMENTS), 64, 64)
    logits[:, 0] = 50.0
    cat = SEGMENTS.index("cat")
    for rows, columns in ((slice(0, 5), slice(40, 55)), (slice(40, 45), slice(0, 5))):
        logits[:, cat, rows, columns] = 100.0
    fake = SimpleNamespace(
        segmenter=saying(logits), style_classifier=saying(torch.zeros(1, len(STYLES))),
        tagger=saying(torch.zeros(1, len(KINDS) + len(BACKGROUNDS))),
    )  # fmt: skip
    found = Annotators(fake)(torch.zeros(1, 3, 64, 64))[0]
    odds = {name: float(found[ATTRIBUTES.index(name)]) for name in PLACES if name.startswith("cat_")}
    assert odds["cat_top-right"] == pytest.approx(torch.tensor(75 / 120).logit().item(), abs=1e-4)
    assert odds["cat_bottom-left"] == pytest.approx(torch.tensor(25 / 120).logit().item(), abs=1e-4)
    assert odds["cat_top-left"] == pytest.approx(torch.tensor(0.01).logit().item(), abs=1e-4)


def test_log_odds_are_those_of_the_softmax():
    logits = torch.randn(6, 5, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(against(logits), logits.softmax(1).logit(), atol=1e-4, rtol=1e-4)


def test_what_excludes_an_attribute_is_no_damage():
    assert set(related("night")) == set(STYLES) - {"night"} and set(related("snow")) == set(BACKGROUNDS) - {"snow"}
    assert set(related("cat_top-left")) == {"cat_top-right", "cat_bottom-left", "cat_bottom-right"}
    assert "cat_top-left" in related("cat") and "dog" not in related("cat")
    with pytest.raises(SparsightError, match="unknown attribute 'nigth': did you mean 'night'"):
        related("nigth")
