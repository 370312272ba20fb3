"""What the gallery of a run holds: the film strip, and where latents are active."""

from __future__ import annotations

import re
from typing import Any

from sparsight.report.emergence.sites import stages_of
from sparsight.report.emergence.tiles import Sheet, harvested, open_image
from sparsight.report.numbers import digits_plain
from sparsight.report.run_files import RunFiles, dig, listing, mapping, number
from sparsight.report.sheets import Sprites, overlay_strip


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
    return {"rows": shown, "moments": [_moment(one) for one in moments], "finals": finals, **_where(told),
            "rule": str(told.get("rule") or "")}  # fmt: skip


def _moment(told: dict[str, Any]) -> dict[str, str]:
    """Step, timestep and threshold of a reading as text."""
    return {key: digits_plain(number(told.get(key))) for key in ("step", "t", "threshold")}


def _where(told: dict[str, Any]) -> dict[str, str]:
    """The site and k of the pictures as text."""
    return {"site": str(told.get("site") or "–"), "k": digits_plain(number(told.get("k")))}


def latents(run: RunFiles, sprites: Sprites) -> dict[str, Any] | None:
    """The latents of each stage with the images that excite them most."""
    told = mapping(mapping(run.json("gallery", "gallery.json")).get("latents"))
    found = mapping(told.get("stages"))
    stages = []
    for stage in stages_of(found):
        cards = [_latent(run, sprites, one) for one in listing(dig(found, stage, "latents"))]
        stages.append(
            (stage, digits_plain(number(dig(found, stage, "t"))), [card for card in cards if card is not None])
        )
    stages = [stage for stage in stages if stage[2]]
    return {"stages": stages, **_where(told)} if stages else None


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
