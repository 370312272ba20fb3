"""Draw the README's picture from a run: python examples/edits_picture.py runs/demo docs/images/edits.png"""

import json
import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

FACES, SIZE, GAP, LABEL = 6, 88, 6, 168
ROWS = (("original", "before"), ("casl", "after"), ("counterfactual", "truth"))


def tiles(path: Path, tile: int = 64) -> list[Image.Image]:
    """The first faces of a contact sheet, enlarged without smoothing away their pixels."""
    sheet = Image.open(path).convert("RGB")
    crops = [sheet.crop((i * tile, 0, (i + 1) * tile, tile)) for i in range(FACES)]
    return [crop.resize((SIZE, SIZE), Image.Resampling.LANCZOS) for crop in crops]


def panel(run: Path, name: str, alpha: float) -> Image.Image:
    """One concept: before, after and truth, a row each."""
    font = ImageFont.load_default(15)
    picture = Image.new("RGB", (LABEL + FACES * (SIZE + GAP), 3 * (SIZE + GAP) + GAP), "white")
    draw = ImageDraw.Draw(picture)
    for row, (sheet, label) in enumerate(ROWS):
        top = GAP + row * (SIZE + GAP)
        title = f"{name.replace('_', ' ')}\n\n" if row == 0 else ""
        note = f"{label}, alpha {alpha:g}" if sheet == "casl" else label
        draw.multiline_text((GAP, top + 14), title + note, fill="#333", font=font)
        for column, face in enumerate(tiles(run / "concepts" / name / "images" / f"{sheet}.png")):
            picture.paste(face, (LABEL + column * (SIZE + GAP), top))
    return picture


def main(run: Path, out: Path, names: list[str]) -> None:
    """Stack the panels of `names` (default: the first four concepts), two to a row."""
    concepts = json.loads((run / "metrics.json").read_text())["concepts"]
    chosen = names or list(concepts)[:4]
    panels = [panel(run, name, concepts[name]["alpha"]) for name in chosen]
    width, height = panels[0].size
    picture = Image.new("RGB", (2 * width + GAP, -(-len(panels) // 2) * (height + 2 * GAP)), "white")
    for i, one in enumerate(panels):
        picture.paste(one, ((i % 2) * (width + GAP), (i // 2) * (height + 2 * GAP)))
    picture.save(out, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
