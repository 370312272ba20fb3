import pytest
import torch

from sparsight import SparsightError
from sparsight.steering import choose_alpha


def _choose(alphas, flips_at, valid_until):
    seen = []

    def edit(alpha):
        seen.append(alpha)
        return torch.full((10,), float(alpha))

    choice = choose_alpha(edit, lambda x: x >= flips_at, lambda x: x <= valid_until, alphas)
    return choice, seen


def test_the_smallest_alpha_that_meets_the_rule_is_taken_and_no_stronger_one_is_tried():
    choice, seen = _choose([64, 16, 32, 128], flips_at=32, valid_until=100)
    assert choice.alpha == 32 and choice.met and seen == [16, 32]


def test_a_rule_that_is_not_met_takes_the_most_flips_among_valid_ones():
    choice, _ = _choose([16, 32, 64], flips_at=64, valid_until=40)
    assert choice.alpha == 16 and not choice.met  # 16 and 32 flip alike; the weaker is taken


def test_nothing_valid_takes_the_weakest():
    choice, seen = _choose([16, 32], flips_at=1, valid_until=1)
    assert choice.alpha == 16 and not choice.met and seen == [16]


def test_no_alpha_is_refused():
    with pytest.raises(SparsightError, match="at least one alpha"):
        _choose([], 0, 0)
