"""Areas and ranks against closed forms and against scipy."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from sparsight import SparsightError
from sparsight.metrics.curves import damage_at, mean_height, rank_agreement, ranks, weights


def test_a_straight_line_has_half_its_height():
    assert mean_height(np.array([1.0]), np.array([1.0]), 1.0) == pytest.approx(0.5)
    assert mean_height(np.array([0.25, 1.0]), np.array([0.25, 1.0]), 1.0) == pytest.approx(0.5)


def test_a_curve_is_cut_at_the_limit_and_held_where_it_ends_before():
    assert mean_height(np.array([2.0]), np.array([2.0]), 1.0) == pytest.approx(0.5)  # y = x, only up to 1
    assert mean_height(np.array([0.5]), np.array([1.0]), 2.0) == pytest.approx((0.25 + 1.5) / 2)


def test_the_area_of_a_parabola_comes_out_with_many_points():
    x = np.linspace(0, 3, 2001)[1:]
    assert mean_height(x, x**2, 3.0) == pytest.approx(3.0, rel=1e-5)  # 1/3 of 27, over 3


def test_damage_that_falls_counts_as_what_it_was():
    assert mean_height(np.array([1.0, 0.5]), np.array([1.0, 3.0]), 2.0) == pytest.approx((0.5 + 3.0) / 2)


@given(st.lists(st.floats(0.01, 5), min_size=1, max_size=6), st.floats(0.1, 4), st.floats(0.1, 9))
def test_the_area_does_not_depend_on_the_unit_of_damage(steps, limit, unit):
    x = np.cumsum(steps)
    y = np.sqrt(x)
    assert mean_height(x * unit, y, limit * unit) == pytest.approx(mean_height(x, y, limit))


def test_rows_are_curves_of_their_own():
    x, y = np.array([[1.0, 2.0], [1.0, 4.0]]), np.array([[1.0, 1.0], [0.0, 3.0]])
    assert mean_height(x, y, 2.0) == pytest.approx([0.75, 0.25])


def test_damage_at_a_height_is_on_the_line():
    x, y = np.array([[0.2, 1.0], [0.2, 1.0]]), np.array([[0.1, 0.9], [0.1, 0.3]])
    found = damage_at(x, y, 0.5)
    assert found[0] == pytest.approx(0.6) and np.isnan(found[1])
    assert damage_at(np.array([2.0]), np.array([1.0]), 0.25) == pytest.approx(0.5)  # before the first point


@pytest.mark.parametrize("limit", [0.0, -1.0, float("nan")])
def test_a_limit_that_is_none_is_refused(limit):
    with pytest.raises(SparsightError, match="limit of a curve"):
        mean_height(np.array([1.0]), np.array([1.0]), limit)


def test_unequal_lists_are_refused():
    with pytest.raises(SparsightError, match="as many heights"):
        mean_height(np.array([1.0, 2.0]), np.array([1.0]), 1.0)


def test_the_best_has_place_one_and_ties_share():
    assert ranks(np.array([0.1, 0.9, 0.5, 0.5])).tolist() == [4, 1, 2.5, 2.5]


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=3, max_size=12))
def test_agreement_is_scipys(pairs):
    a, b = np.array(pairs, dtype=float).T
    if len(set(a)) > 1 and len(set(b)) > 1:
        assert rank_agreement(a, b) == pytest.approx(spearmanr(a, b).statistic)
    else:
        assert np.isnan(rank_agreement(a, b))


def test_agreement_leaves_out_what_one_list_lacks():
    a, b = np.array([1.0, 2.0, np.nan, 4.0]), np.array([1.0, 3.0, 9.0, 2.0])
    assert rank_agreement(a, b) == pytest.approx(spearmanr([1, 2, 4], [1, 3, 2]).statistic)


def test_resamples_have_the_sample_first_and_the_spread_of_a_mean():
    values = np.random.default_rng(1).normal(size=200)
    means = weights(200, 4000, 3) @ values
    assert means[0] == pytest.approx(values.mean())
    assert means[1:].std() == pytest.approx(values.std() / 200**0.5, rel=0.06)
    assert (weights(200, 10, 3) == weights(200, 10, 3)).all()
