"""The search for strengths against functions whose inverse is known."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsight.pipeline.compare.strengths import match_levels

LEVELS = (0.1, 0.2, 0.4, 0.8)


@given(st.floats(1e-3, 1e3), st.floats(0.7, 2.5))
def test_a_power_is_inverted_whatever_the_unit(unit, power):
    matches = match_levels(
        lambda s: (s / unit) ** power, LEVELS, start=0.01 if unit < 10 else 1.0, tolerance=0.05, most=40
    )
    assert [m.level for m in matches] == list(LEVELS)
    for match in matches:
        assert match.reached and match.distance == pytest.approx(match.level, rel=0.05)
        assert match.strength == pytest.approx(unit * match.distance ** (1 / power))


def test_few_trials_do():
    trials = []
    match_levels(lambda s: trials.append(s) or (30 * s) ** 1.2 / (1 + (30 * s) ** 1.2), LEVELS, 0.01)
    assert len(trials) <= 12 and len(set(trials)) == len(trials)


def test_a_level_beyond_the_ceiling_is_the_strongest_edit_and_says_so():
    matches = match_levels(lambda s: 0.5 * s / (s + 1), LEVELS, 0.01)
    assert [m.reached for m in matches] == [True, True, True, False]
    assert 0.44 < matches[-1].distance < 0.5  # between the level before and the ceiling


def test_an_edit_that_breaks_down_is_not_used():
    matches = match_levels(lambda s: s if s < 0.3 else math.nan, LEVELS, 0.01)
    assert [m.reached for m in matches[:2]] == [True, True]
    assert all(math.isfinite(m.distance) and m.strength < 0.3 for m in matches)
    assert not matches[-1].reached


def test_a_start_that_is_far_too_strong_is_left():
    matches = match_levels(lambda s: s if s < 5 else math.nan, (0.1, 0.2), 1000.0)
    assert [m.reached for m in matches] == [True, True]


def test_what_never_changes_anything_has_no_strength():
    assert match_levels(lambda s: 0.0, LEVELS, 0.01) == []
    assert match_levels(lambda s: math.nan, LEVELS, 0.01) == []


def test_a_wave_on_the_way_does_not_lead_astray():
    matches = match_levels(lambda s: s * (1 + 0.4 * math.sin(40 * s)), LEVELS, 0.01, most=40)
    assert all(m.distance == pytest.approx(m.level, rel=0.1) for m in matches)


def test_an_edit_that_cannot_be_weak_is_at_its_weakest_and_costs_few_trials():
    trials = []
    matches = match_levels(lambda s: trials.append(s) or 0.3 + 0.7 * min(s, 1.0), LEVELS, 0.2, tolerance=0.05)
    assert [m.reached for m in matches] == [True] * 4 and len(trials) <= 14
    assert all(m.distance < 0.35 for m in matches[:2])  # the levels 0.1 and 0.2, which it cannot come down to
    assert matches[3].distance == pytest.approx(0.8, rel=0.05)


def test_strengths_that_go_by_steps_are_not_searched_for_ever():
    trials = []
    matches = match_levels(
        lambda s: trials.append(s) or round(4 * min(s, 1.0)) / 4, (0.1, 0.4, 0.8), 0.2, tolerance=0.02
    )
    assert len(trials) < 24 and {round(m.distance, 2) for m in matches} <= {0.0, 0.25, 0.5, 0.75, 1.0}


def test_what_an_edit_does_at_any_strength_does_not_hide_its_push():
    """As the spatial edit, which takes the object away elsewhere at any strength, and puts it in the place by strength."""
    matches = match_levels(lambda s: math.hypot(1.1, 1.5 * s), (0.5, 1.2, 2.4), 0.01)
    assert matches[0].distance == pytest.approx(1.1, rel=0.01) and matches[0].reached
    for match in matches[1:]:
        assert match.distance == pytest.approx(match.level, rel=0.1)
        assert match.distance == pytest.approx(math.hypot(1.1, 1.5 * match.strength))
    assert matches[1].strength > 0.15 and matches[2].strength > 1
