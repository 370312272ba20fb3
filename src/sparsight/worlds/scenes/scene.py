"""What a scene is: a few objects at random places on a background, in one drawing style."""

from __future__ import annotations

import random
from dataclasses import dataclass

SIZE = 64
KINDS = ("apple", "ball", "bird", "book", "car", "cat", "dog", "door", "penguin", "pig", "tree", "umbrella")
BACKGROUNDS = ("beach", "meadow", "room", "snow")
STYLES = ("cartoon", "night", "pencil", "pixel", "watercolor")

_COUNTS = {1: 0.3, 2: 0.4, 3: 0.3}
_SIZES = {1: (22, 32), 2: (20, 28), 3: (18, 24)}  # smallest and largest side in pixels, by number of objects
_OVERLAP = 0.25  # of the smaller box, at most: what is named can always be recognised


@dataclass(frozen=True)
class Thing:
    """One object: its kind, and its square box by left and top edge and side, in pixels of a 64-pixel image."""

    kind: str
    left: int
    top: int
    side: int

    def overlap(self, other: Thing) -> float:
        """Shared area of the two boxes, as a share of the smaller one."""
        width = min(self.left + self.side, other.left + other.side) - max(self.left, other.left)
        height = min(self.top + self.side, other.top + other.side) - max(self.top, other.top)
        return max(0, width) * max(0, height) / min(self.side, other.side) ** 2


@dataclass(frozen=True)
class Scene:
    """Objects from back to front, no kind twice; a background with its horizon (row of pixels); a style."""

    things: tuple[Thing, ...]
    background: str
    horizon: int
    style: str


def sample_scene(seed: int, index: int) -> Scene:
    """Scene number `index` of the stream `seed`; the same pair gives the same scene on every machine.

    Kinds, places, background and style are independent, so nothing but the picture itself tells where a thing is.
    """
    rng = random.Random(f"scenes/{seed}/{index}")
    count = rng.choices(list(_COUNTS), weights=list(_COUNTS.values()))[0]
    things: list[Thing] = []
    for kind in rng.sample(KINDS, count):
        things.append(_place(kind, things, _SIZES[count], rng))
    return Scene(tuple(things), rng.choice(BACKGROUNDS), rng.randint(26, 40), rng.choice(STYLES))


def _place(kind: str, others: list[Thing], sides: tuple[int, int], rng: random.Random) -> Thing:
    while True:  # the sizes leave room for three in every arrangement, so this ends after a few tries
        side = rng.randint(*sides)
        thing = Thing(kind, rng.randint(0, SIZE - side), rng.randint(0, SIZE - side), side)
        if all(thing.overlap(other) <= _OVERLAP for other in others):
            return thing
