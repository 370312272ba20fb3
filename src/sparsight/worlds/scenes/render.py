"""Draw a `Scene`: background, objects from back to front, then a style over the whole picture; masks as exact.

Art: Noto Emoji by Google, Apache License 2.0 (assets/README.md).
"""

from __future__ import annotations

from functools import lru_cache
from importlib.resources import files

import numpy as np
from PIL import Image

from sparsight.errors import unknown
from sparsight.worlds.scenes.backgrounds import draw_background
from sparsight.worlds.scenes.scene import KINDS, SIZE, Scene, Thing
from sparsight.worlds.scenes.styles import PIXEL, apply_style


@lru_cache(maxsize=512)
def sprite(kind: str, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Colours (side, side, 3), already weighted by opacity, and opacity (side, side, 1), both in [0, 1]."""
    if kind not in KINDS:
        raise unknown("kind of object", kind, KINDS)
    with (files("sparsight") / "worlds" / "scenes" / "assets" / f"{kind}.png").open("rb") as file:
        picture = Image.open(file).convert("RGBA")
    picture = _square(picture.crop(picture.getbbox()))
    small = np.asarray(picture.convert("RGBa").resize((side, side), Image.Resampling.BOX), dtype=np.float32) / 255
    return small[..., :3], small[..., 3:]


def _square(picture: Image.Image) -> Image.Image:
    side = max(picture.size)
    found = Image.new("RGBA", (side, side))
    found.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    return found


def _compose(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """The scene before its style: colours (64, 64, 3) in [0, 1], and whose each pixel is (64, 64), 0 for nobody's."""
    image = draw_background(scene.background, scene.horizon)
    owner = np.zeros((SIZE, SIZE), dtype=np.uint8)
    for thing in scene.things:
        color, opacity = sprite(thing.kind, thing.side)
        window = _window(thing)
        image[window] = image[window] * (1 - opacity) + color
        owner[window][opacity[..., 0] > 0.5] = KINDS.index(thing.kind) + 1
    if scene.style == "pixel":  # sampled, not averaged, so that each block is one object's alone
        image, owner = _blocks(image), _blocks(owner)
    return image, owner


def _window(thing: Thing) -> tuple[slice, slice]:
    return slice(thing.top, thing.top + thing.side), slice(thing.left, thing.left + thing.side)


def _blocks(array: np.ndarray) -> np.ndarray:
    return array[::PIXEL, ::PIXEL].repeat(PIXEL, axis=0).repeat(PIXEL, axis=1)


def render(scene: Scene) -> np.ndarray:
    """The scene as uint8 pixels (64, 64, 3); the same scene gives the same bytes."""
    image, owner = _compose(scene)
    return _to_bytes(apply_style(scene.style, image, owner))


def segment(scene: Scene) -> np.ndarray:
    """Whose each pixel is, uint8 (64, 64): 0 for the background, otherwise 1 + the kind's place in `KINDS`."""
    return _compose(scene)[1]


def render_with_segments(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """What `render` and `segment` give, drawn once."""
    image, owner = _compose(scene)
    return _to_bytes(apply_style(scene.style, image, owner)), owner


def masks(scene: Scene) -> dict[str, np.ndarray]:
    """Where each object is seen: bool (64, 64) by kind. What another object covers is not seen."""
    owner = segment(scene)
    return {thing.kind: owner == KINDS.index(thing.kind) + 1 for thing in scene.things}


def _to_bytes(image: np.ndarray) -> np.ndarray:
    return (image.clip(0, 1) * 255 + 0.5).astype(np.uint8)
