"""The four backgrounds: two or three bands of colour with a simple pattern that survives every drawing style."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from sparsight.errors import unknown
from sparsight.worlds.scenes.scene import BACKGROUNDS, SIZE

_ROWS, _COLUMNS = np.mgrid[0:SIZE, 0:SIZE]


def _rgb(code: int) -> np.ndarray:
    return np.array([code >> 16, code >> 8 & 255, code & 255], dtype=np.float32) / 255


def _bands(horizon: int, above: int, below: int) -> np.ndarray:
    return np.where((horizon > _ROWS)[..., None], _rgb(above), _rgb(below)).astype(np.float32)


def _beach(horizon: int) -> np.ndarray:
    image = _bands(horizon, 0x9FD8F5, 0xF0D9A0)
    wave = np.rint(1.5 * np.sin(_COLUMNS * (2 * np.pi / 16))).astype(int)
    sea = (horizon <= _ROWS) & (horizon + 11 + wave > _ROWS)
    image[sea] = _rgb(0x2F86C1)
    image[sea & (horizon + 9 + wave <= _ROWS)] = _rgb(0xF6FBFF)  # foam
    return image


def _meadow(horizon: int) -> np.ndarray:
    hill = horizon + np.rint(3 * np.sin(_COLUMNS * (np.pi / 32))).astype(int)
    image = _bands(0, 0, 0xC9ECFA)
    ground = hill <= _ROWS
    image[ground] = _rgb(0x86C452)
    tufts = (_ROWS % 8 > 4) & ((_COLUMNS + 4 * (_ROWS // 8 % 2)) % 8 == 3)
    image[tufts & (hill + 2 <= _ROWS)] = _rgb(0x4E9433)
    return image


def _room(horizon: int) -> np.ndarray:
    floor = horizon + 8
    image = _bands(floor, 0xE7C3D8, 0xB98556)
    image[(floor > _ROWS) & (_COLUMNS % 12 < 2)] = _rgb(0xD7A5C1)  # striped wallpaper
    image[(floor <= _ROWS) & (_ROWS % 8 == 7)] = _rgb(0x8D5F38)  # floor boards
    image[(floor - 2 <= _ROWS) & (floor > _ROWS)] = _rgb(0xFAF3EE)  # skirting
    return image


def _snow(horizon: int) -> np.ndarray:
    image = _bands(horizon, 0x8E9DB8, 0xF2F5FA)
    flakes = (_ROWS % 16 < 2) & ((_COLUMNS + 8 * (_ROWS // 16 % 2)) % 16 < 2) & (horizon > _ROWS)
    image[flakes] = _rgb(0xFFFFFF)
    wave = np.rint(1.5 * np.sin(_COLUMNS * (np.pi / 16)))
    drift = (horizon + 2 <= _ROWS) & ((_ROWS + wave) % 12 == 11)
    image[drift] = _rgb(0xCBD6E6)
    return image


_DRAW: dict[str, Callable[[int], np.ndarray]] = {"beach": _beach, "meadow": _meadow, "room": _room, "snow": _snow}


def draw_background(name: str, horizon: int) -> np.ndarray:
    """Colours (64, 64, 3) in [0, 1], float32, with the horizon at that row of pixels."""
    if name not in BACKGROUNDS:
        raise unknown("background", name, BACKGROUNDS)
    return _DRAW[name](horizon)
