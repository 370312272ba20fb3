import importlib
import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsight.errors import SparsightError
from sparsight.metrics import Interval, bootstrap, bootstrap_ratio, row_mean


def ratio(a, b):
    return a.mean(1) / b.mean(1)


def test_interval_covers_the_true_mean_about_as_often_as_it_says():
    generator = np.random.default_rng(0)
    hits = 0
    for trial in range(300):
        interval = bootstrap(row_mean, generator.normal(3.0, 2.0, 60), n_resamples=300, seed=trial)
        hits += interval.low <= 3.0 <= interval.high
    # 0.95 less the known shortfall of the percentile method at n = 60; the binomial spread of 300 trials is 0.013.
    assert 0.89 <= hits / 300 <= 0.985


def test_the_width_of_the_mean_is_that_of_theory():
    values = np.random.default_rng(1).normal(size=400)
    interval = bootstrap(row_mean, values, n_resamples=4000)
    assert interval.value == pytest.approx(values.mean())
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.06)


def test_rows_of_all_arrays_move_together():
    b = np.random.default_rng(2).uniform(1, 9, 50)
    interval = bootstrap(ratio, 3 * b, b)
    assert (interval.low, interval.value, interval.high) == pytest.approx((3, 3, 3))


def test_a_ratio_of_means_is_not_a_mean_of_ratios():
    assert bootstrap(ratio, [1.0, 9.0], [1.0, 1.0]).value == 5
    assert bootstrap(ratio, [1.0, 1.0], [1.0, 9.0]).value == pytest.approx(0.2)


def test_chunks_do_not_change_the_result(monkeypatch):
    values = np.random.default_rng(3).normal(size=(20, 4))
    statistic = lambda x: x.mean((1, 2))  # noqa: E731
    whole = bootstrap(statistic, values)
    module = importlib.import_module("sparsight.metrics.bootstrap")  # the package gives the function of this name
    monkeypatch.setattr(module, "_CHUNK_NUMBERS", 1)
    assert bootstrap(statistic, values) == whole


def test_pairing_sees_what_two_intervals_cannot():
    hard = np.random.default_rng(4).lognormal(0, 2, 40)
    single = bootstrap(row_mean, hard)
    paired = bootstrap_ratio(row_mean, [1.1 * hard], [hard])
    assert (paired.low, paired.high) == pytest.approx((1.1, 1.1))
    assert single.high / single.low > 1.5


def test_a_zero_bottom_is_left_out():
    whole = bootstrap_ratio(row_mean, [[1.0, 1.0]], [[0.0, 0.0]])
    assert math.isnan(whole.value) and math.isnan(whole.low) and whole.n == 2
    some = bootstrap_ratio(row_mean, [[1.0, 1.0]], [[0.0, 1.0]])
    assert some.value == 2 and some.low == 1 and math.isfinite(some.high)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-100, 100), min_size=1, max_size=20), st.integers(0, 5))
def test_interval_is_ordered_within_the_data_and_the_same_twice(values, seed):
    first = bootstrap(row_mean, values, n_resamples=50, seed=seed)
    assert first == bootstrap(row_mean, torch.tensor(values, dtype=torch.float64), n_resamples=50, seed=seed)
    assert min(values) - 1e-9 <= first.low <= first.high <= max(values) + 1e-9


def test_no_rows_and_one_row():
    empty, one = bootstrap(row_mean, []), bootstrap(row_mean, [2.0])
    assert math.isnan(empty.value) and empty.n == 0
    assert one == Interval(2, 2, 2, 1)


def test_json_holds_no_nan():
    assert json.dumps(bootstrap(row_mean, []).to_dict(), allow_nan=False)
    assert Interval(1.0, 0.5, math.inf, 3).to_dict() == {"value": 1.0, "low": 0.5, "high": None, "n": 3}


def test_tensors_on_the_tape_and_in_bfloat16_are_taken():
    assert bootstrap(row_mean, torch.ones(3, requires_grad=True)).value == 1
    assert bootstrap(row_mean, torch.ones(3, dtype=torch.bfloat16)).value == 1


@pytest.mark.parametrize(
    ("arrays", "options", "words"),
    [
        (([1.0], [1.0, 2.0]), {}, "rows"),
        ((), {}, "one row for each image"),
        (([math.nan],), {}, "NaN"),
        (([1.0],), {"n_resamples": 0}, "resample"),
        (([1.0],), {"level": 1.0}, "level"),
    ],
)
def test_mistakes_are_named(arrays, options, words):
    with pytest.raises(SparsightError, match=words):
        bootstrap(row_mean, *arrays, **options)
