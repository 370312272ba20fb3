"""Where things are: against sums written out, and pictures whose answer one can see."""

import pytest
import torch

from sparsight.errors import SparsightError
from sparsight.metrics import (
    QUADRANTS,
    centre_of_mass,
    intersection_over_union,
    quadrant,
    quadrant_region,
    quadrant_success,
    similarity_rose,
)  # fmt: skip


def test_the_centre_is_the_weighted_mean_of_pixel_middles():
    weights = torch.rand(3, 5, 8, generator=torch.Generator().manual_seed(0))
    for found, one in zip(centre_of_mass(weights), weights, strict=True):
        down = sum(float(one[i, j]) * (i + 0.5) / 5 for i in range(5) for j in range(8)) / float(one.sum())
        right = sum(float(one[i, j]) * (j + 0.5) / 8 for i in range(5) for j in range(8)) / float(one.sum())
        assert found.tolist() == pytest.approx([down, right])


@pytest.mark.parametrize("number, name", list(enumerate(QUADRANTS)))
def test_a_region_has_its_own_centre_and_regions_tile_the_grid(number, name):
    region = quadrant_region(name, (6, 4))
    assert int(region.sum()) == 6 and quadrant(region[None].float()).item() == number
    assert region[0 if "top" in name else -1, 0 if "left" in name else -1]
    assert torch.stack([quadrant_region(q, (7, 5)) for q in QUADRANTS]).sum(0).eq(1).all()


def test_success_is_the_right_quadrant_and_nothing_found_is_none():
    maps = torch.zeros(3, 8, 8)
    maps[0, 1, 6], maps[1, 6, 1] = 1.0, 1.0
    assert quadrant_success(maps, "top-right").tolist() == [1.0, 0.0, 0.0]
    assert quadrant(maps).tolist() == [1, 2, -1]


def test_overlap_counts_pixels():
    a, b = torch.zeros(2, 4, 4, dtype=torch.bool), torch.zeros(2, 4, 4, dtype=torch.bool)
    a[0, :2], b[0, 1:3] = True, True
    found = intersection_over_union(a, b)
    assert found[0] == pytest.approx(1 / 3) and found[1].isnan()


def test_a_rise_is_a_larger_cosine():
    text, before = torch.tensor([1.0, 0.0]), torch.tensor([[1.0, 1.0], [1.0, 1.0]])
    after = torch.tensor([[9.0, 8.0], [1.0, 1.1]])
    assert similarity_rose(before, after, text).tolist() == [1.0, 0.0]


def test_mistakes_are_named():
    with pytest.raises(SparsightError, match="unknown quadrant 'left'"):
        quadrant_region("left", (4, 4))
    with pytest.raises(SparsightError, match="not negative"):
        centre_of_mass(-torch.ones(1, 2, 2))
    with pytest.raises(SparsightError, match="cannot be compared"):
        intersection_over_union(torch.ones(1, 2, 2).bool(), torch.ones(1, 3, 2).bool())
