"""The pictures of the page: tiles out of the sheets of a run, as strips."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from sparsight.report.emergence.sites import METHODS, stages_of
from sparsight.report.run_files import RunFiles, dig, listing, mapping, number
from sparsight.report.sheets import LARGEST, Sprites, Strip, overlay_strip

COLUMNS = 8  # of a sheet that `sparsight.images.write_sheet` saved
PAINTED = 4  # images of each style
SHOWN = ("concept", "random_latents")
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


def film(run: RunFiles, sprites: Sprites) -> dict[str, Any] | None:
    """The film strip: a row for each image, and how its moments and nouns are named."""
    told = mapping(mapping(run.json("gallery", "gallery.json")).get("film"))
    moments, rows = ([mapping(one) for one in listing(told.get(key))] for key in ("moments", "rows"))
    image, columns = open_image(run.path("gallery", "film.png"), "RGBA"), len(moments) + 1
    if image is None or not moments or not rows or image.width % columns or image.height % len(rows):
        return None
    sheet = Sheet(image, columns, (image.width // columns, image.height // len(rows)))
    finals = harvested(run, sprites, [row.get("image") for row in rows])
    strips = [sprites.add(sheet.strip([r * columns + c for c in range(columns)]), columns) for r in range(len(rows))]
    colours = [c for c in listing(told.get("colours")) if re.fullmatch(r"#[0-9a-f]{6}", str(c))] or ["#808080"]
    shown = [
        {"strip": strip, "place": place, "image": row.get("image"), "prompt": str(row.get("prompt") or ""),
         "nouns": [(str(noun), colours[i % len(colours)]) for i, noun in enumerate(listing(row.get("nouns")))]}
        for place, (row, strip) in enumerate(zip(rows, strips, strict=True)) if strip is not None
    ]  # fmt: skip
    return {"rows": shown, "moments": moments, "finals": finals, "site": told.get("site"), "k": told.get("k"),
            "rule": str(told.get("rule") or "")}  # fmt: skip


def latents(run: RunFiles, sprites: Sprites) -> dict[str, Any] | None:
    """The latents of each stage with the images that excite them most."""
    told = mapping(mapping(run.json("gallery", "gallery.json")).get("latents"))
    found = mapping(told.get("stages"))
    stages = [(s, dig(found, s, "t"), [c for one in listing(dig(found, s, "latents")) if (c := _latent(run, sprites, one))])
              for s in stages_of(found)]  # fmt: skip
    stages = [stage for stage in stages if stage[2]]
    return {"stages": stages, "site": told.get("site"), "k": told.get("k")} if stages else None


def _latent(run: RunFiles, sprites: Sprites, told: Any) -> dict[str, Any] | None:
    top = [mapping(one) for one in listing(mapping(told).get("top"))]
    strip = harvested(run, sprites, [one.get("image") for one in top])
    if strip is None:
        return None
    maps = [listing(one.get("map")) for one in top]
    labels = [(str(pair[0]), pair[1]) for pair in map(listing, listing(told.get("labels"))) if len(pair) == 2]
    images = [(one.get("image"), _peak(rows)) for one, rows in zip(top, maps, strict=True)]
    heat = sprites.add(overlay_strip(maps), len(maps))
    return {"latent": told.get("latent"), "labels": labels, "objects": told.get("objects"), "strip": strip,
            "heat": heat, "top": images}  # fmt: skip


def _peak(rows: list[Any]) -> str:
    """The largest activation of a map."""
    values = [v for row in rows for v in map(number, listing(row)) if v is not None]
    return f"{max(values):.2g}" if values else "–"


def layout_grid(run: RunFiles, sprites: Sprites) -> dict[str, Any] | None:
    """The first seed of every object: unedited, and moved to each quadrant at each stage, by method."""
    told = mapping(run.json("layout.json"))
    objects, quadrants = (
        [str(o) for o in listing(told.get("objects"))],
        [str(q) for q in listing(told.get("quadrants"))],
    )
    seeds, stages = int(number(told.get("seeds")) or 0), stages_of(told.get("stages"))
    plain = open_sheet(run.path("layout", "plain.png"), len(objects) * seeds)
    if plain is None or not quadrants:
        return None
    before = [sprites.add(plain.strip([i * seeds]), 1) for i in range(len(objects))]
    panels = []
    for method in SHOWN:
        sheets = {s: open_sheet(run.path("layout", f"{s}.{method}.png"), len(objects) * len(quadrants) * seeds)
                  for s in stages}  # fmt: skip
        rows = [
            {"name": kind, "before": before[i],
             "stages": [(s, _strip(sprites, sheets[s], [(i * len(quadrants) + q) * seeds for q in range(len(quadrants))]))
                        for s in stages]}
            for i, kind in enumerate(objects)
        ]  # fmt: skip
        panels += [(METHODS[method], rows)] if any(sheets.values()) else []
    return {"panels": panels, "quadrants": quadrants, "stages": stages, "seeds": seeds} if panels else None


def style_grid(run: RunFiles, sprites: Sprites) -> dict[str, Any] | None:
    """The first test images unedited and in every style at each stage, by method."""
    told = mapping(run.json("style.json"))
    styles, stages = [str(s) for s in listing(told.get("styles"))], stages_of(told.get("stages"))
    count = int(number(told.get("images")) or 0)
    shown = list(range(min(PAINTED, count)))
    before = _strip(sprites, open_sheet(run.path("style", "plain.png"), count), shown)

    def painted(stage: str, style: str, method: str) -> Strip | None:
        return _strip(sprites, open_sheet(run.path("style", f"{stage}.{style}.{method}.png"), count), shown)

    panels = []
    for method in SHOWN if before is not None else ():
        rows = [{"name": style, "stages": [(s, painted(s, style, method)) for s in stages]} for style in styles]
        drawn = [row for row in rows if any(strip for _, strip in row["stages"])]
        panels += [(METHODS[method], drawn)] if drawn else []
    return {"panels": panels, "before": before, "stages": stages, "count": len(shown)} if panels else None


def _strip(sprites: Sprites, sheet: Sheet | None, places: list[int]) -> Strip | None:
    return sprites.add(sheet.strip(places), len(places)) if sheet is not None else None
