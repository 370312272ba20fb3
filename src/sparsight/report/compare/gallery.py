"""The same images under every method, at one perceptual distance."""

from __future__ import annotations

from typing import Any

from sparsight.report.compare.names import ranked
from sparsight.report.run_files import RunFiles, dig, listing, mapping, number
from sparsight.report.sheets import Sprites, read_strip

COLUMNS = 8
FAR = 1.25  # times the level: where even the weakest edit of a method lies beyond it


def galleries(run: RunFiles, sprites: Sprites) -> list[dict[str, Any]]:
    """For each concept strips of the first images of the first seed: unedited, true, and edited by each method."""
    seed, level = listing(run.metrics.get("seeds"))[:1], dig(run.metrics, "entanglement", "level")
    return [
        {"concept": c, "level": level, "rows": rows} for c in mapping(run.metrics.get("concepts"))
        if (rows := _rows(run, sprites, c, seed[0] if seed else 0, level))
    ]  # fmt: skip


def _rows(run: RunFiles, sprites: Sprites, concept: str, seed: Any, level: Any) -> list[dict[str, Any]]:
    images = ("images", f"seed{seed}", concept, "test")
    facts = mapping(run.json(*images, "images.json"))
    tile = tuple(int(v) for v in listing(facts.get("tile"))) or (64, 64)
    count = len(listing(facts.get("numbers")))
    rows = []
    for name, sheet in (("unedited", "original.png"), ("true edit", "counterfactual.png")):
        rows.append({"name": name, "note": "", **_strip(run, sprites, (*images, sheet), tile, count)})
    for method in ranked(mapping(run.metrics.get("methods"))):
        if concept in mapping(dig(run.metrics, "unfit", method)):
            continue
        folder = ("cells", "main", f"seed{seed}", concept, method)
        place, note = _place(mapping(run.json(*folder, "cell.json")), level)
        strip = {"strip": None} if place is None else _strip(run, sprites, (*folder, f"level{place}.png"), tile, count)
        rows.append({"name": method, "note": note, **strip})
    return [row for row in rows if row["strip"] is not None or row["note"]]


def _strip(run: RunFiles, sprites: Sprites, parts: tuple[str, ...], tile: Any, count: int) -> dict[str, Any]:
    image, shown = read_strip(run.path(*parts), tile, COLUMNS, count)
    return {"strip": sprites.add(image, shown)}


def _place(cell: dict[str, Any], level: Any) -> tuple[int | None, str]:
    """Which sheet of a cell is shown, and what has to be said of it."""
    matches = listing(cell.get("matches"))
    if not matches:
        return None, "failed"
    for i, match in enumerate(matches):
        if dig(match, "reached") and dig(match, "level") == level:
            own = number(dig(match, "distance")) or 0.0
            return i, f"no nearer than {own:.2f}" if own > FAR * level else ""
    distance = number(dig(matches[-1], "distance"))
    return len(matches) - 1, f"comes to {distance:.2f}" if distance is not None else ""
