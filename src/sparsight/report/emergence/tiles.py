"""Tiles out of the sheets and images of a run, as strips of the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from sparsight.report.run_files import RunFiles, number
from sparsight.report.sheets import LARGEST, Sprites, Strip

COLUMNS = 8  # of a sheet that `sparsight.images.write_sheet` saved
UNREADABLE = (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError)


@dataclass(frozen=True)
class Sheet:
    """A grid of tiles of one size, row by row."""

    image: Image.Image
    columns: int
    tile: tuple[int, int]

    def strip(self, places: Sequence[int]) -> Image.Image | None:
        """The tiles at these places side by side; None where one of them is not on the sheet."""
        width, height = self.tile
        if not places or max(places) // self.columns >= self.image.height // height:
            return None
        shown = (min(width, LARGEST), min(height, LARGEST))
        row = Image.new(self.image.mode, (len(places) * shown[0], shown[1]))
        for i, place in enumerate(places):
            x, y = place % self.columns * width, place // self.columns * height
            piece = self.image.crop((x, y, x + width, y + height))
            row.paste(piece if piece.size == shown else piece.resize(shown), (i * shown[0], 0))
        return row


def open_image(path: Path | None, mode: str = "RGB") -> Image.Image | None:
    """An image of the run; None where it is missing or broken."""
    try:
        with Image.open(path) as opened:  # type: ignore[arg-type]
            return opened.convert(mode)
    except (*UNREADABLE, AttributeError):
        return None


def open_sheet(path: Path | None, count: int) -> Sheet | None:
    """A sheet of `count` images in eight columns; None where it is missing, broken or of another shape."""
    image, rows = open_image(path), -(-count // COLUMNS)
    if image is None or count < 1 or image.width % COLUMNS or image.height % rows:
        return None
    return Sheet(image, COLUMNS, (image.width // COLUMNS, image.height // rows))


def harvested(run: RunFiles, sprites: Sprites, numbers: Sequence[Any]) -> Strip | None:
    """The run's own images of these numbers as one strip."""
    paths = [run.path("images", f"{int(n):08d}.png") for n in map(number, numbers) if n is not None]
    found = [image for path in paths if (image := open_image(path)) is not None]
    if not found or len(found) != len(numbers) or len({image.size for image in found}) > 1:
        return None
    row = Image.new("RGB", (found[0].width * len(found), found[0].height))
    for i, image in enumerate(found):
        row.paste(image, (i * image.width, 0))
    return sprites.add(row, len(found))


def strip_of(sprites: Sprites, sheet: Sheet | None, places: list[int]) -> Strip | None:
    """The tiles of a sheet at these places; None where there is no sheet, or not so many tiles."""
    return sprites.add(sheet.strip(places), len(places)) if sheet is not None else None
