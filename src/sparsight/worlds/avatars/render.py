"""Draw a `Face`: SVG from DiceBear's Avataaars, pixels from resvg, masks by leaving one part out.

Art: "Avataaars" by Pablo Stanley, free for personal and commercial use (https://avataaars.com).
"""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from functools import lru_cache
from importlib.resources import files
from typing import Any

import numpy as np
from PIL import Image

from sparsight.worlds.avatars.faces import HATS, Face

SIZE = 64
_VIEW = "54 24 172 172"  # the head, in the style's own 280 x 280 units

_SKIN = {"pale": "#fbe3d0", "light": "#edb98a", "tan": "#d08b5b", "brown": "#a2653a", "dark": "#704a38"}
_HAIR = {"black": "#1f1715", "brown": "#7a4526", "blond": "#ecc35c", "gray": "#b4b4b8", "red": "#cf3a0a"}
_HAT = {"red": "#e0403f", "blue": "#3c6fd1", "green": "#3f9b57"}
_CLOTHES = {"blue": "#5199e4", "white": "#f4f4f4", "dark": "#262e33", "pink": "#ff9aac"}
_BACKGROUND = {"sky": "#b1e2ff", "mint": "#a7e8bd", "peach": "#ffd9b5", "lilac": "#d5ccff"}

PARTS = ("mouth", "eyes", "hair", "beard", "glasses")


@lru_cache(maxsize=1)
def _style() -> Any:
    from dicebear import Style

    return Style(json.loads(files("dicebear_styles").joinpath("avataaars.json").read_text("utf-8")))


def _part(name: str, variant: str) -> dict[str, Any]:
    shown = variant != "none"
    options: dict[str, Any] = {f"{name}Probability": 100 if shown else 0}
    return options | ({f"{name}Variant": [variant]} if shown else {})


def _options(face: Face) -> dict[str, Any]:
    return {
        "seed": "sparsight",
        **_part("mouth", face.mouth), **_part("eyes", face.eyes), **_part("eyebrows", face.brows),
        **_part("accessories", face.glasses), **_part("facialHair", face.facial_hair),
        **_part("top", face.top), **_part("clothes", "shirtCrewNeck"),
        "skinColor": [_SKIN[face.skin]], "hairColor": [_HAIR[face.hair]], "hatColor": [_HAT[face.hat_color]],
        "facialHairColor": [_HAIR[face.beard_color]], "clothesColor": [_CLOTHES[face.clothes]],
        "accessoriesColor": ["#262e33"], "backgroundColor": [_BACKGROUND[face.background]],
    }  # fmt: skip


def render_svg(face: Face) -> str:
    """The face as SVG text, its view box cropped to the head."""
    from dicebear import Avatar

    svg = Avatar(_style(), _options(face)).to_string()
    return re.sub(r'viewBox="0 0 280 280"', f'viewBox="{_VIEW}"', svg)


def render(face: Face, size: int = SIZE) -> np.ndarray:
    """The face as uint8 pixels of shape (size, size, 3); the same face gives the same bytes."""
    import resvg_py

    png = bytes(resvg_py.svg_to_bytes(svg_string=render_svg(face), width=size, skip_system_fonts=True))
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def _without(face: Face, part: str) -> Face | None:
    """The face with one part left out, or None where it has no such part."""
    if part == "hair":
        return None if face.top in (*HATS, "none") else replace(face, top="none")
    factor = {"mouth": "mouth", "eyes": "eyes", "beard": "facial_hair", "glasses": "glasses"}[part]
    return None if getattr(face, factor) == "none" else replace(face, **{factor: "none"})


def masks(face: Face, size: int = SIZE) -> dict[str, np.ndarray]:
    """Where each of `PARTS` is seen: bool arrays (size, size), all False for a part that is absent or hidden."""
    image = render(face, size).astype(np.int16)
    return {part: _difference(image, _without(face, part), size) for part in PARTS}


def _difference(image: np.ndarray, other: Face | None, size: int) -> np.ndarray:
    if other is None:
        return np.zeros((size, size), dtype=bool)
    return np.abs(image - render(other, size)).max(axis=-1) > 8
