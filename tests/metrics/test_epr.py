import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from sparsight.errors import SparsightError
from sparsight.metrics import editing_precision, precision_ratio

NAMES = ["smiling", "beard", "hat"]
LOGITS = arrays(np.float64, (6, 3), elements=st.floats(-20, 20, width=32))


def edit(n=4, target=2.0, others=(0.5, -1.5)):
    before = torch.full((n, 3), -1.0)
    return before, before + torch.tensor([target, *others])


def test_closed_form():
    report = editing_precision(*edit(), 0, names=NAMES)
    assert report.epr.value == pytest.approx(2 / (1.0 + 1e-8))
    assert report.epr.n == 4
    assert report.signed_change.value == 2
    assert report.worst_damage.name == "hat" and report.worst_damage.change.value == 1.5
    assert [d.name for d in report.damage] == ["beard", "hat"]


def test_ratio_of_dataset_means():
    before = torch.zeros(2, 2)
    after = torch.tensor([[1.0, 1.0], [9.0, 3.0]])
    assert editing_precision(before, after, 0).epr.value == pytest.approx(10 / 4)


def test_the_guard_is_the_papers():
    before = torch.zeros(3, 2)
    report = editing_precision(before, before + torch.tensor([1.0, 0.0]), 0)
    assert report.epr.value == pytest.approx(1e8)


def test_true_epr_counts_decisions_with_half_a_flip():
    before = torch.tensor([[-1.0, -1.0, 1.0]] * 4)
    after = before.clone()
    after[:3, 0] = 1.0  # three of four targets flip
    after[0, 1] = 1.0  # one of eight other decisions flips
    report = editing_precision(before, after, 0)
    assert report.true_epr.value == pytest.approx((3 / 4) / (1.5 / 8))
    assert report.damage[0].flips == 0.25 and report.damage[1].flips == 0


def test_true_epr_bounds_are_those_of_the_docstring():
    before = -torch.ones(5, 4)
    perfect = before.clone()
    perfect[:, 1] = 1.0
    assert editing_precision(before, perfect, 1).true_epr.value == pytest.approx(2 * 5 * 3)
    assert editing_precision(before, before, 1).true_epr.value == 0


def test_direction():
    before, after = edit()
    up, down = editing_precision(before, after, 0), editing_precision(before, after, 0, direction=-1)
    assert up.signed_change.value == -down.signed_change.value == 2
    assert up.flip_rate.value == 1 and up.flip_rate.n == 4
    back = editing_precision(after, before, 0, direction=-1)
    assert back.flip_rate.value == 1 and back.signed_change.value == 2
    assert back.epr == up.epr  # EPR is unsigned: that is why the signed change stands beside it


def test_flip_rate_counts_only_those_that_could_flip():
    before = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [-1.0, 0.0]])
    after = torch.tensor([[-1.0, 0.1], [1.0, 0.0], [-1.0, 0.0]])
    report = editing_precision(before, after, 0)
    assert report.flip_rate.value == 0.5 and report.flip_rate.n == 2


def test_flip_rate_without_candidates_is_null():
    report = editing_precision(torch.ones(3, 2), 2 * torch.ones(3, 2), 0)
    assert math.isnan(report.flip_rate.value) and report.flip_rate.n == 0
    assert report.to_dict()["flip_rate"] == {"value": None, "low": None, "high": None, "n": 0}


def test_excluded_columns_are_no_damage():
    before, after = edit()
    report = editing_precision(before, after, "smiling", exclude=["hat"], names=NAMES)
    assert report.epr.value == pytest.approx(4)
    assert report.worst_damage.name == "beard"
    assert report == editing_precision(before, after, 0, exclude=[2], names=NAMES)


@settings(max_examples=30, deadline=None)
@given(LOGITS, LOGITS, st.permutations(range(6)))
def test_order_of_images_does_not_matter(before, after, order):
    def values(rows):
        report = editing_precision(before[rows], after[rows], 0, n_resamples=5)
        return [report.epr.value, report.true_epr.value, report.signed_change.value, report.worst_damage.change.value]

    assert values(list(order)) == pytest.approx(values(list(range(6))))


@settings(max_examples=30, deadline=None)
@given(st.floats(0.1, 10), st.integers(0, 1000))
def test_a_common_scale_of_the_logits_does_not_matter(scale, seed):
    before, after = np.random.default_rng(seed).normal(size=(2, 8, 4))
    first = editing_precision(before, after, 1, n_resamples=20)
    second = editing_precision(scale * before, scale * after, 1, n_resamples=20)
    assert second.epr.value == pytest.approx(first.epr.value, rel=1e-5)
    assert second.epr.high == pytest.approx(first.epr.high, rel=1e-5)
    assert second.true_epr == first.true_epr and second.flip_rate == first.flip_rate


def test_two_edits_of_the_same_images_are_compared_on_the_same_resamples():
    before, change = np.random.default_rng(0).normal(size=(2, 30, 4))
    rival = change.copy()
    rival[:, 1:] *= 2  # twice the damage everywhere: exactly half as precise, whatever the images
    interval = precision_ratio(before, before + change, before + rival, 0)
    assert (interval.low, interval.value, interval.high) == pytest.approx((2, 2, 2))
    assert precision_ratio(before, before + change, before, 0).to_dict()["value"] is None


def test_report_is_json():
    text = json.dumps(editing_precision(*edit(), 0, names=NAMES).to_dict(), allow_nan=False)
    assert set(json.loads(text)) == {"epr", "true_epr", "signed_change", "flip_rate", "worst_damage", "damage"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"target": "smilling", "names": NAMES}, "did you mean 'smiling'"),
        ({"target": 7}, "between 0 and 2"),
        ({"target": 0, "exclude": [1, 2]}, "besides 'attribute 0'"),
        ({"target": 0, "direction": 0}, "direction"),
        ({"target": 0, "names": ["a"]}, "1 names"),
        ({"target": 0, "after": torch.zeros(1, 3)}, "equal arrays"),
        ({"target": 0, "after": torch.full((4, 3), math.nan)}, "NaN"),
        ({"target": 0, "before": torch.zeros(0, 3), "after": torch.zeros(0, 3)}, "equal arrays"),
    ],
)
def test_mistakes_are_named(arguments, words):
    before, after = edit()
    with pytest.raises(SparsightError, match=words):
        editing_precision(**{"before": before, "after": after, **arguments})
