"""What is drawn for the report: owners of pixels, their colours and outlines, and which images are shown."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image

from sparsight.pipeline.emergence.drawing import COLOURS, FILL, SCALE, composition_tile, rgb, write_tiles
from sparsight.pipeline.emergence.gallery import chosen_images, predicted, stacked


def test_a_place_goes_to_the_noun_with_the_highest_score_above_the_threshold() -> None:
    scores = torch.tensor([[[0.9, 0.2], [0.1, 0.5]], [[0.1, 0.1], [0.6, 0.5]]])
    owner = predicted(scores, 0.25, (4, 4))
    assert owner[::2, ::2].tolist() == [[1, 0], [2, 1]]
    assert owner.shape == (4, 4) and owner[0, 1] == owner[1, 0] == 1


def test_the_smaller_of_two_masks_lies_on_top() -> None:
    small, large = torch.zeros(2, 3, 3, dtype=torch.bool)
    large[:], small[1, 1] = True, True
    assert stacked(torch.stack([small, large])).tolist() == [[2, 2, 2], [2, 1, 2], [2, 2, 2]]


def test_images_with_several_nouns_come_first() -> None:
    shown, rule = chosen_images([4, 4, 5, 7, 7, 7, 9])
    assert shown == [4, 7] and "two or more" in rule
    assert chosen_images([4, 5])[0] == [4, 5] and chosen_images([])[0] == []


def test_a_tile_has_fills_outlines_and_a_clear_ground() -> None:
    truth = torch.zeros(1, 6, 6, dtype=torch.bool)
    truth[0, 1:5, 1:5] = True
    tile = composition_tile(torch.where(truth[0], 1, 0), truth)
    middle, edge = 3 * SCALE, SCALE
    assert tile.shape == (6 * SCALE, 6 * SCALE, 4) and tile[0, 0, 3] == 0
    assert tuple(tile[middle, middle]) == (*rgb(COLOURS[0]), FILL)
    assert tuple(tile[edge, middle]) == (*rgb(COLOURS[0]), 255)


def test_tiles_are_saved_row_by_row(tmp_path: Path) -> None:
    mask = torch.ones(1, 2, 2, dtype=torch.bool)
    full, empty = (composition_tile(torch.full((2, 2), value), mask[:value]) for value in (1, 0))
    write_tiles(tmp_path / "film.png", [empty, full, empty], 2)
    with Image.open(tmp_path / "film.png") as sheet:
        assert sheet.size == (4 * SCALE, 4 * SCALE) and sheet.mode == "RGBA"
        assert sheet.getpixel((2 * SCALE, 0))[3] == FILL and sheet.getpixel((0, 2 * SCALE))[3] == 0
