"""Before and after: the pictures of both kinds of edits, by method."""

from __future__ import annotations

from typing import Any

from sparsight.report.emergence.sites import METHODS, stages_of
from sparsight.report.emergence.tiles import open_sheet, strip_of
from sparsight.report.run_files import RunFiles, listing, mapping, number
from sparsight.report.sheets import Sprites, Strip

PAINTED = 4  # images of each style
SHOWN = ("concept", "random_latents")


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
             "stages": [(s, strip_of(sprites, sheets[s], [(i * len(quadrants) + q) * seeds for q in range(len(quadrants))]))
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
    before = strip_of(sprites, open_sheet(run.path("style", "plain.png"), count), shown)

    def painted(stage: str, style: str, method: str) -> Strip | None:
        return strip_of(sprites, open_sheet(run.path("style", f"{stage}.{style}.{method}.png"), count), shown)

    panels = []
    for method in SHOWN if before is not None else ():
        rows = [{"name": style, "stages": [(s, painted(s, style, method)) for s in stages]} for style in styles]
        drawn = [row for row in rows if any(strip for _, strip in row["stages"])]
        panels += [(METHODS[method], drawn)] if drawn else []
    return {"panels": panels, "before": before, "stages": stages, "count": len(shown)} if panels else None
