"""Compositions as pictures: each noun in its own colour on a transparent ground, with the annotated outlines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from sparsight.files import atomic

# Told apart by most colour-blind readers, on light paper and on dark.
COLOURS = ("#2f7fc1", "#e08a1e", "#17a37f", "#cc5f9b", "#c9ae1d", "#7d6bd0")
FILL = 150  # opacity, so that outlines stay visible on it
SCALE = 2  # pixels of a tile for each pixel of the image, so that outlines are thin


def composition_tile(owner: Tensor, truth: Tensor) -> np.ndarray:
    """Whose each pixel is (H, W), 0 for nobody's, and the outlines of the true masks (n, H, W): RGBA, twice the size."""
    palette = np.array([(0, 0, 0, 0), *((*rgb(colour), FILL) for colour in COLOURS)], np.uint8)
    index = owner.numpy()
    places = np.where(index > 0, (index - 1) % len(COLOURS) + 1, 0)
    tile = enlarged(palette[places])
    for noun, mask in enumerate(truth.numpy()):
        colour = rgb(COLOURS[noun % len(COLOURS)])
        tile[border(enlarged(mask))] = (*colour, 255)
    return tile


def enlarged(pixels: np.ndarray) -> np.ndarray:
    """Every pixel `SCALE` times in both directions."""
    return pixels.repeat(SCALE, 0).repeat(SCALE, 1)


def border(mask: np.ndarray) -> np.ndarray:
    """The pixels of a mask (H, W) that have a neighbour outside it."""
    wide = np.pad(mask, 1, mode="edge")
    inside = wide[:-2, 1:-1] & wide[2:, 1:-1] & wide[1:-1, :-2] & wide[1:-1, 2:]
    return mask & ~inside


def rgb(colour: str) -> tuple[int, int, int]:
    """ "#2f7fc1" as three numbers."""
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def write_tiles(path: Path, tiles: Sequence[np.ndarray], columns: int) -> None:
    """Save RGBA tiles (H, W, 4) of one size as one PNG, row by row."""
    height, width = tiles[0].shape[:2]
    rows = -(-len(tiles) // columns)
    sheet = np.zeros((rows * height, columns * width, 4), np.uint8)
    for i, tile in enumerate(tiles):
        y, x = i // columns * height, i % columns * width
        sheet[y : y + height, x : x + width] = tile
    with atomic(path) as temporary:
        Image.fromarray(sheet).save(temporary, format="PNG")
