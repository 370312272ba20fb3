"""Draw the README's picture of an emergence run: python examples/emergence_picture.py runs/scenes docs/images/emergence.png"""

import json
import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

SIZE, GAP, LABEL, TILE, FILMS, OBJECTS = 72, 5, 96, 64, 3, 4
STAGES = (("early", "pushed at the first steps"), ("final", "pushed at the last steps"))
FONT = ImageFont.load_default(14)


def crop(sheet: Image.Image, place: int, tile: int = TILE) -> Image.Image:
    """One tile of a contact sheet, in the picture's size."""
    columns = sheet.width // tile
    left, top = place % columns * tile, place // columns * tile
    return sheet.crop((left, top, left + tile, top + tile)).resize((SIZE, SIZE), Image.Resampling.LANCZOS)


def right_of(column: int) -> int:
    """Where a column begins."""
    return LABEL + column * (SIZE + GAP)


def film(run: Path) -> Image.Image:
    """What each moment's codes say is where, and the finished image."""
    told = json.loads((run / "gallery" / "gallery.json").read_text())["film"]
    sheet, moments = Image.open(run / "gallery" / "film.png"), told["moments"]
    picture = Image.new("RGB", (right_of(len(moments) + 1), 26 + FILMS * (SIZE + GAP)), "white")
    draw = ImageDraw.Draw(picture)
    for column, moment in enumerate(moments):
        draw.text((right_of(column), 4), f"step {moment['step']}", fill="#333", font=FONT)
    draw.text((right_of(len(moments)), 4), "image", fill="#333", font=FONT)
    for row, one in enumerate(told["rows"][:FILMS]):
        top = 26 + row * (SIZE + GAP)
        draw.multiline_text((GAP, top + 14), "\n".join(one["nouns"]), fill="#333", font=FONT)
        for column in range(len(moments)):
            tile = crop(sheet, row * (len(moments) + 1) + column, told["tile"][0])
            ground = Image.new("RGB", (SIZE, SIZE), "#f0f0ee")
            ground.paste(tile, mask=tile.getchannel("A"))
            picture.paste(ground, (right_of(column), top))
        image = Image.open(run / "images" / f"{one['image']:08d}.png").convert("RGB")
        picture.paste(image.resize((SIZE, SIZE), Image.Resampling.LANCZOS), (right_of(len(moments)), top))
    return picture


def mark(draw: ImageDraw.ImageDraw, left: int, top: int, quadrant: str) -> None:
    """A small triangle in the corner that the object was to go to."""
    x = left if "left" in quadrant else left + SIZE - 1
    y = top if "top" in quadrant else top + SIZE - 1
    inward = (13 if "left" in quadrant else -13, 13 if "top" in quadrant else -13)
    draw.polygon([(x, y), (x + inward[0], y), (x, y + inward[1])], fill="#d0245a")


def moves(run: Path) -> Image.Image:
    """The first objects, unedited and pushed into every quadrant, early and late."""
    told = json.loads((run / "layout.json").read_text())
    count, seeds = len(told["quadrants"]), told["seeds"]
    picture = Image.new("RGB", (right_of(1 + 2 * count) + 2 * GAP, 26 + OBJECTS * (SIZE + GAP)), "white")
    draw, sheets = ImageDraw.Draw(picture), {}
    draw.text((right_of(0), 4), "unedited", fill="#333", font=FONT)
    for part, (stage, title) in enumerate(STAGES):
        sheets[part] = Image.open(run / "layout" / f"{stage}.concept.png").convert("RGB")
        draw.text((right_of(1 + part * count) + (part + 1) * GAP, 4), title, fill="#333", font=FONT)
    plain = Image.open(run / "layout" / "plain.png").convert("RGB")
    for row, kind in enumerate(told["objects"][:OBJECTS]):
        top = 26 + row * (SIZE + GAP)
        draw.text((GAP, top + 26), kind, fill="#333", font=FONT)
        picture.paste(crop(plain, row * seeds), (right_of(0), top))
        for part, sheet in sheets.items():
            for quadrant in range(count):
                left = right_of(1 + part * count + quadrant) + (part + 1) * GAP
                picture.paste(crop(sheet, (row * count + quadrant) * seeds), (left, top))
                mark(draw, left, top, told["quadrants"][quadrant])
    return picture


def main(run: Path, out: Path) -> None:
    """Both parts, one above the other."""
    parts = [film(run), moves(run)]
    picture = Image.new("RGB", (max(p.width for p in parts), sum(p.height for p in parts) + 4 * GAP), "white")
    picture.paste(parts[0], (0, 0))
    picture.paste(parts[1], (0, parts[0].height + 4 * GAP))
    picture.save(out, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
