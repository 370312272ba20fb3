import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from sparsight.errors import SparsightError
from sparsight.metrics import attribute_agreement, pearson, psnr, spearman


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(-5, 5), st.integers(-5, 5)), min_size=3, max_size=15))
def test_values_are_scipys_ties_included(pairs):
    a, b = np.array(pairs, dtype=float).T
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        assert math.isnan(pearson(a, b, n_resamples=5).value)
        return
    assert pearson(a, b, n_resamples=5).value == pytest.approx(stats.pearsonr(a, b).statistic)
    assert spearman(a, b, n_resamples=5).value == pytest.approx(stats.spearmanr(a, b).statistic)


def test_spearman_sees_order_only():
    x = np.linspace(0, 4, 20)
    interval = spearman(x, np.exp(x))
    assert (interval.low, interval.value, interval.high, interval.n) == pytest.approx((1, 1, 1, 20))
    assert pearson(x, np.exp(x)).value < 0.95
    assert spearman(x, -np.exp(x)).value == pytest.approx(-1)


def test_unrelated_lists_have_an_interval_around_zero():
    a, b = np.random.default_rng(0).normal(size=(2, 200))
    interval = spearman(a, b)
    assert interval.low < 0 < interval.high
    assert interval.high - interval.low < 0.4


def test_a_shift_does_not_hide_a_flat_list():
    assert math.isnan(pearson([1e6 + 0.1] * 4, [1.0, 2.0, 3.0, 4.0]).value)
    assert pearson([1e6 + 1, 1e6 + 2, 1e6 + 3], [1.0, 2.0, 3.0]).value == pytest.approx(1)
    assert pearson([1e-15, 2e-15, 3e-15], [1.0, 2.0, 3.0]).value == pytest.approx(1)


def test_too_few_pairs_are_null():
    assert spearman([1.0], [1.0]).to_dict() == {"value": None, "low": None, "high": None, "n": 1}
    with pytest.raises(SparsightError, match="rows"):
        spearman([1.0, 2.0], [1.0])


def test_psnr():
    a = torch.zeros(2, 3, 4, 4)
    b = a.clone()
    b[1] = 0.2
    assert psnr(a, b).tolist() == pytest.approx([10 * math.log10(4e10), 20.0], rel=1e-5)


def test_attribute_agreement():
    a = torch.tensor([[1.0, -1.0], [1.0, -1.0]])
    b = torch.tensor([[5.0, -3.0], [-1.0, -1.0]])
    assert attribute_agreement(a, b).value == 0.75
    assert attribute_agreement(a, a).low == 1
    with pytest.raises(SparsightError, match="equal arrays"):
        attribute_agreement(a, b[:1])
