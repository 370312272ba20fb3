"""Contact sheets to one-row strips that the page's style sheet holds once each, however often they are shown."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from sparsight.report.run_files import listing, number

SHOWN = 8  # faces of each strip: as many as the sheets of the slider hold
LARGEST = 128  # pixels of a tile on the page
OVERLAY = 32  # pixels of a map on the page, before the browser smooths it further
WARM = (255, 106, 0)


@dataclass(frozen=True)
class Strip:
    """A row of `count` tiles, known to the style sheet by its class `name`."""

    name: str
    count: int


@dataclass
class Sprites:
    """All images of one page. Past `budget` bytes of lossless PNG, they are shown in fewer colours."""

    budget: int = 1_700_000
    images: list[Image.Image] = field(default_factory=list)
    colours: int | None = None  # of a strip, where they had to be reduced
    _seen: dict[bytes, Strip] = field(default_factory=dict)

    def add(self, image: Image.Image | None, count: int) -> Strip | None:
        """Take a strip of `count` tiles; an image that is there already is not taken twice."""
        if image is None or count < 1:
            return None
        key = f"{image.mode} {image.size} {count} ".encode() + image.tobytes()
        if key not in self._seen:
            self._seen[key] = Strip(f"s{len(self.images)}", count)
            self.images.append(image)
        return self._seen[key]

    def css(self) -> str:
        """One rule for each strip."""
        coded = [png(image) for image in self.images]
        for colours in (256, 64):
            if sum(map(len, coded)) > self.budget:
                self.colours = colours
                coded = [png(_few_colours(image, colours)) for image in self.images]
        rule = ".s{}{{background-image:url(data:image/png;base64,{})}}"
        return "\n".join(rule.format(i, base64.b64encode(data).decode()) for i, data in enumerate(coded))


def png(image: Image.Image) -> bytes:
    """`image` as PNG. (Pillow's `optimize` saves 3 % and takes three times as long.)"""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def _few_colours(image: Image.Image, colours: int) -> Image.Image:
    return image if image.mode != "RGB" else image.quantize(colours, dither=Image.Dither.NONE)


def read_strip(path: Path | None, tile: tuple[int, int], columns: int, count: int) -> tuple[Image.Image | None, int]:
    """The first tiles of a row-major sheet, side by side, and how many they are; None where there is no such sheet."""
    if path is None:
        return None, 0
    try:
        with Image.open(path) as opened:
            sheet = opened.convert("RGB")
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None, 0
    height, width = tile
    columns = max(1, min(columns, sheet.width // width))
    count = max(0, min(count, SHOWN, columns * (sheet.height // height)))
    return (_row(sheet, (height, width), columns, count), count) if count else (None, 0)


def _row(sheet: Image.Image, tile: tuple[int, int], columns: int, count: int) -> Image.Image:
    height, width = tile
    shown = (min(width, LARGEST), min(height, LARGEST))
    row = Image.new("RGB", (count * shown[0], shown[1]))
    for i in range(count):
        x, y = i % columns * width, i // columns * height
        piece = sheet.crop((x, y, x + width, y + height))
        row.paste(piece if piece.size == shown else piece.resize(shown, Image.Resampling.LANCZOS), (i * shown[0], 0))
    return row


def overlay_strip(maps: list[Any]) -> Image.Image | None:
    """Activation maps as a row of warm, translucent tiles: one scale for the row, smooth between positions."""
    grids = [_grid(rows) for rows in maps]
    peak = max((v for grid in grids if grid for row in grid for v in row), default=0.0)
    if peak <= 0:
        return None
    strip = Image.new("RGBA", (len(grids) * OVERLAY, OVERLAY), (*WARM, 0))
    for i, grid in enumerate(grids):
        if grid:
            tile = Image.new("RGBA", (OVERLAY, OVERLAY), (*WARM, 0))
            tile.putalpha(_smooth(grid, peak))
            strip.paste(tile, (i * OVERLAY, 0))
    return strip


def _smooth(grid: list[list[float]], peak: float) -> Image.Image:
    small = Image.new("L", (len(grid[0]), len(grid)))
    small.putdata([round(215 * max(0.0, v) / peak) for row in grid for v in row])
    return small.resize((OVERLAY, OVERLAY), Image.Resampling.BICUBIC)


def _grid(rows: Any) -> list[list[float]]:
    """`rows` as a rectangle of numbers, empty where it is none."""
    grid = [[number(v) or 0.0 for v in listing(row)] for row in listing(rows)]
    return grid if grid and grid[0] and len({len(row) for row in grid}) == 1 else []
