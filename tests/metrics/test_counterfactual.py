import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsight.errors import SparsightError
from sparsight.metrics import counterfactual_gain, inside_share, pixel_l1, pixel_l2


def batch(seed, n=3):
    return torch.rand(n, 3, 8, 8, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_distances_in_closed_form():
    a, b = torch.zeros(2, 3, 4, 4), torch.full((2, 3, 4, 4), -0.5)
    assert pixel_l1(a, b).tolist() == pixel_l2(a, b).tolist() == [0.5, 0.5]


@settings(max_examples=20, deadline=None)
@given(st.floats(0, 2), st.integers(0, 50))
def test_gain_is_the_share_of_the_way(step, seed):
    original, counterfactual = batch(seed), batch(seed + 100)
    for distance in (pixel_l1, pixel_l2):
        gain = counterfactual_gain(original.lerp(counterfactual, step), original, counterfactual, distance)
        assert gain.values.tolist() == pytest.approx([1 - abs(1 - step)] * 3, abs=1e-4)


def test_gain_at_the_ends_and_beyond():
    original, counterfactual = batch(0), batch(1)
    assert counterfactual_gain(counterfactual, original, counterfactual).values.tolist() == [1, 1, 1]
    assert counterfactual_gain(original, original, counterfactual).values.tolist() == [0, 0, 0]
    away = 2 * original - counterfactual
    assert counterfactual_gain(away, original, counterfactual).values.tolist() == pytest.approx([-1, -1, -1])


def test_images_without_a_difference_are_left_out_and_counted():
    original, counterfactual = batch(0), batch(1)
    counterfactual[1] = original[1]
    gain = counterfactual_gain(counterfactual, original, counterfactual)
    assert gain.kept.tolist() == [True, False, True]
    assert gain.excluded == 1 and gain.values.tolist() == [1, 1]
    assert gain.to_dict() == {"value": 1.0, "low": 1.0, "high": 1.0, "n": 2, "excluded": 1}


def test_nothing_left_is_null_not_an_error():
    gain = counterfactual_gain(batch(1), batch(0), batch(0))
    assert gain.excluded == 3 and math.isnan(gain.interval().value)
    assert gain.to_dict()["value"] is None


def test_inside_share_in_closed_form():
    original = torch.zeros(2, 3, 4, 4)
    edit = original.clone()
    edit[0, :, 0, 0], edit[0, :, 3, 3] = 0.75, -0.25
    edit[1] = 0.1
    mask = torch.zeros(2, 4, 4, dtype=torch.bool)
    mask[:, 0] = True
    share = inside_share(edit, original, mask)
    assert share.values.tolist() == pytest.approx([0.75, 4 / 16])  # a uniform change scores the mask's area


def test_inside_share_without_change_or_without_mask_is_left_out():
    original = batch(0)
    edit = batch(1)
    edit[0] = original[0]
    mask = torch.ones(3, 8, 8, dtype=torch.bool)
    mask[1] = False
    share = inside_share(edit, original, mask)
    assert share.kept.tolist() == [False, False, True] and share.excluded == 2
    assert share.values.tolist() == pytest.approx([1])


def test_mistakes_are_named():
    with pytest.raises(SparsightError, match="equal shapes"):
        counterfactual_gain(batch(0), batch(0, n=2), batch(0))
    with pytest.raises(SparsightError, match="one number for each image"):
        counterfactual_gain(batch(0), batch(1), batch(2), lambda a, b: (a - b).abs().mean())
    with pytest.raises(SparsightError, match="mask must be bool"):
        inside_share(batch(0), batch(1), torch.ones(3, 8, 8))
    with pytest.raises(SparsightError, match="float tensors"):
        pixel_l1(batch(0)[0], batch(1)[0])
