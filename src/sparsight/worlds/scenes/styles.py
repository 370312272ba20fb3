"""The drawing styles: each changes every pixel of a picture and leaves what is where as it was."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from sparsight.errors import unknown
from sparsight.worlds.scenes.scene import SIZE, STYLES

PIXEL = 2  # side of a block of the style "pixel"
_ROWS, _COLUMNS = np.mgrid[0:SIZE, 0:SIZE]
_PAPER = np.array([0.97, 0.96, 0.92], dtype=np.float32)


def _gray(image: np.ndarray) -> np.ndarray:
    return (image @ np.array([0.3, 0.59, 0.11], dtype=np.float32))[..., None]


def _shifted(image: np.ndarray) -> list[np.ndarray]:
    padded = np.pad(image, ((1, 1), (1, 1), (0, 0)), mode="edge")
    return [padded[r : r + SIZE, c : c + SIZE] for r in range(3) for c in range(3)]


def _blur(image: np.ndarray, times: int) -> np.ndarray:
    for _ in range(times):
        image = np.stack(_shifted(image)).mean(0)
    return image


def _edges(image: np.ndarray) -> np.ndarray:
    """How much a pixel differs from its neighbours: (64, 64, 1)."""
    near = _shifted(image)
    return (np.abs(near[5] - near[3]) + np.abs(near[7] - near[1])).max(axis=-1, keepdims=True)


def _outline(owner: np.ndarray) -> np.ndarray:
    """1 along the rim of every object, inside it: (64, 64, 1)."""
    near = _shifted(owner[..., None].astype(np.int16))
    rim = sum(near[i] != near[4] for i in (1, 3, 5, 7)) > 0
    return (rim & (owner[..., None] > 0)).astype(np.float32)


def _cartoon(image: np.ndarray, _owner: np.ndarray) -> np.ndarray:
    return image


def _night(image: np.ndarray, _owner: np.ndarray) -> np.ndarray:
    blue = np.array([0.40, 0.46, 0.72], dtype=np.float32)
    return (0.75 * image + 0.25 * _gray(image)) * blue + np.array([0.0, 0.01, 0.08], dtype=np.float32)


def _pencil(image: np.ndarray, owner: np.ndarray) -> np.ndarray:
    ink = np.maximum((1.4 * _edges(image)).clip(0, 1), 0.8 * _outline(owner))
    strokes = ((_ROWS + _COLUMNS) % 4 < 2)[..., None]
    tone = (0.85 - _gray(image)).clip(0, 1) * np.where(strokes, 0.8, 0.35)
    return _PAPER * (1 - (ink * 0.75 + tone).clip(0, 0.85)).astype(np.float32)


def _pixel(image: np.ndarray, _owner: np.ndarray) -> np.ndarray:
    return np.rint(image * 4) / np.float32(4)  # few colours; the renderer made the blocks


def _watercolor(image: np.ndarray, owner: np.ndarray) -> np.ndarray:
    wash = _blur(image, 1)
    pale = 1 - 0.62 * (1 - wash)
    pooled = 0.16 * _blur(_outline(owner), 1)  # pigment gathers along rims
    grain = 0.015 * np.sin(_ROWS * 0.9 + 2 * np.sin(_COLUMNS * 0.35))[..., None]
    return pale * (1 - pooled) * _PAPER + grain


_APPLY: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "cartoon": _cartoon, "night": _night, "pencil": _pencil, "pixel": _pixel, "watercolor": _watercolor,
}  # fmt: skip


def apply_style(name: str, image: np.ndarray, owner: np.ndarray) -> np.ndarray:
    """The picture (64, 64, 3) in [0, 1] in a style; `owner` (64, 64) numbers the object of each pixel, 0 for none."""
    if name not in STYLES:
        raise unknown("style", name, STYLES)
    return _APPLY[name](image, owner)
