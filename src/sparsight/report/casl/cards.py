"""What a concept's card shows: faces before and after, the slider, the controls, and the aligned latents."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from PIL import Image

from sparsight.report.numbers import Number, digits, digits_plain, label, read_number
from sparsight.report.run_files import RunFiles, dig, listing, mapping, number
from sparsight.report.sheets import SHOWN, Sprites, Strip, overlay_strip, read_strip

CARD_FIGURES = (("epr", "EPR", ""), ("flip_rate", "flip rate", "%"), ("counterfactual_gain", "counterfactual gain", ""))


@dataclass(frozen=True)
class Shape:
    """How the sheets of one concept are laid out."""

    tile: tuple[int, int]
    columns: int
    count: int


def concept_card(run: RunFiles, sprites: Sprites, concept: str) -> dict[str, Any]:
    """The card of one concept; each strip is None where its sheet is missing."""
    facts = mapping(dig(run.metrics, "concepts", concept))
    shape = sheet_shape(run, concept)
    images = {name: _strip(run, sprites, shape, concept, "images", f"{name}.png") for name in _wanted(facts)}
    alpha, k = number(facts.get("alpha")), number(facts.get("k"))
    return {
        "name": concept,
        "alpha": alpha,
        "k": None if k is None else int(k),
        "direction": "off" if (number(facts.get("direction")) or 1) < 0 else "on",
        "exclude": [label(str(name)) for name in listing(facts.get("exclude"))],
        "latents": [str(latent) for latent in listing(facts.get("latents"))],
        "before": images["original"],
        "truth": images["counterfactual"],
        "slider": _slider(run, sprites, shape, concept, alpha),
        "methods": [_method(run, concept, m, images[m], alpha) for m in _methods(facts)],
        "tile": shape.tile,
    }


def _methods(facts: dict[str, Any]) -> list[str]:
    return sorted(mapping(facts.get("methods")), key=lambda name: name != "casl")


def _wanted(facts: dict[str, Any]) -> list[str]:
    return ["original", "counterfactual", *_methods(facts)]


def _method(run: RunFiles, concept: str, method: str, strip: Strip | None, alpha: float | None) -> dict[str, Any]:
    base = ("concepts", concept, "methods", method)
    own = number(dig(run.metrics, *base, "alpha"))
    figures: list[tuple[str, Number]] = [
        (name, read_number(run.metrics, *base, key, unit=unit)) for key, name, unit in CARD_FIGURES
    ]
    return {"name": method, "strip": strip, "figures": figures, "alpha": own if own is not None else alpha}


def sheet_shape(run: RunFiles, concept: str) -> Shape:
    """What sheet.json says; without it, the square tiles of an eight-column sheet."""
    said = mapping(run.json("concepts", concept, "images", "sheet.json"))
    columns, count = int(number(said.get("columns")) or SHOWN), int(number(said.get("count")) or SHOWN)
    sizes = [int(v) for v in map(number, listing(said.get("tile"))) if v is not None and v >= 1]
    tile = (sizes[0], sizes[1]) if len(sizes) == 2 else _guess(run, concept, columns)
    return Shape(tile, max(1, columns), max(1, count))


def _guess(run: RunFiles, concept: str, columns: int) -> tuple[int, int]:
    path = run.path("concepts", concept, "images", "original.png")
    try:
        with Image.open(path) as opened:  # type: ignore[arg-type]
            side = max(1, opened.width // columns)
    except (OSError, ValueError, AttributeError):
        side = 64
    return side, side


def _strip(run: RunFiles, sprites: Sprites, shape: Shape, concept: str, *parts: str) -> Strip | None:
    path = run.path("concepts", concept, *parts)
    return sprites.add(*read_strip(path, shape.tile, shape.columns, shape.count))


def _slider(run: RunFiles, sprites: Sprites, shape: Shape, concept: str, alpha: float | None) -> dict[str, Any] | None:
    """The strengths that have a sheet; a single one is no slider."""
    said = mapping(run.json("concepts", concept, "slider.json"))
    alphas = [number(value) for value in listing(said.get("alphas"))]
    strips = [_strip(run, sprites, shape, concept, "slider", f"{i:03d}.png") for i in range(len(alphas))]
    stops = [(a, s) for a, s in zip(alphas, strips, strict=True) if a is not None and s is not None]
    if len(stops) < 2:
        return None
    wanted = number(said.get("chosen"))
    wanted = alpha if wanted is None else wanted
    chosen = min(range(len(stops)), key=lambda i: abs(stops[i][0] - (wanted or 0)))
    return {"stops": [(digits_plain(a), s) for a, s in stops], "chosen": chosen}


def latent_cards(run: RunFiles, sprites: Sprites, concept: str) -> list[dict[str, Any]]:
    """The best-aligned latents with the images that excite them most."""
    shape, cards = sheet_shape(run, concept), []
    for entry in listing(run.json("concepts", concept, "latents.json"))[:4]:
        top = [mapping(image) for image in listing(mapping(entry).get("top"))][:SHOWN]
        rank = number(mapping(entry).get("rank"))
        path = run.path("concepts", concept, "latents", f"{int(rank or 0):03d}.png")
        strip = sprites.add(*read_strip(path, shape.tile, shape.columns, len(top)))
        if strip is None:
            continue
        top = top[: strip.count]
        heat = sprites.add(overlay_strip([image.get("map") for image in top]), len(top))
        shown = [(image.get("image"), digits(number(image.get("activation")))) for image in top]
        facts = {key: digits(number(entry.get(key))) for key in ("score",)}
        density = number(entry.get("density"))
        facts["density"] = "–" if density is None else f"{100 * density:.2g} %"
        cards.append({"rank": int(rank or 0), "latent": entry.get("latent"), "strip": strip, "heat": heat,
                      "top": shown, "tile": shape.tile, **facts})  # fmt: skip
    return cards
