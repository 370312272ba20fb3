"""The factors of an avatar face, and the CelebA-style attributes that follow from them.

A face is a point in a small discrete space: one value for each factor. Factors are drawn independently
from `PRIORS`, so that any correlation a model or an edit shows is its own; `sample_face(correlate=...)`
plants one on purpose. Attributes are *defined* from factors, never guessed from pixels.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace

from sparsight.errors import SparsightError, unknown

PRIORS: dict[str, dict[str, float]] = {
    "mouth": {"serious": 0.25, "twinkle": 0.25, "screamOpen": 0.25, "smile": 0.25},
    "eyes": {"default": 0.4, "closed": 0.2, "squint": 0.2, "surprised": 0.2},
    "brows": {"flatNatural": 0.4, "angryNatural": 0.3, "raisedExcitedNatural": 0.3},
    "glasses": {"none": 0.5, "prescription02": 0.2, "round": 0.1, "sunglasses": 0.1, "kurt": 0.1},
    "facial_hair": {"none": 0.5, "beardLight": 0.15, "beardMedium": 0.15, "moustacheMagnum": 0.2},
    "top": {
        "none": 0.12, "winterHat03": 0.08, "turban": 0.07, "shortFlat": 0.14, "theCaesar": 0.14,
        "shortCurly": 0.12, "straight02": 0.12, "bob": 0.11, "curly": 0.1,
    },
    "hair": {"black": 0.25, "brown": 0.25, "blond": 0.2, "gray": 0.15, "red": 0.15},
    "beard_color": {"black": 0.5, "brown": 0.5},
    "skin": {"pale": 0.2, "light": 0.2, "tan": 0.2, "brown": 0.2, "dark": 0.2},
    "hat_color": {"red": 0.34, "blue": 0.33, "green": 0.33},
    "clothes": {"blue": 0.25, "white": 0.25, "dark": 0.25, "pink": 0.25},
    "background": {"sky": 0.25, "mint": 0.25, "peach": 0.25, "lilac": 0.25},
}  # fmt: skip


@dataclass(frozen=True)
class Face:
    """One value for each factor of `PRIORS`; hashable, so that a face can be a cache key."""

    mouth: str
    eyes: str
    brows: str
    glasses: str
    facial_hair: str
    top: str
    hair: str
    beard_color: str
    skin: str
    hat_color: str
    clothes: str
    background: str


HATS = ("winterHat03", "turban")
DARK_GLASSES = ("sunglasses", "kurt")


def _has_hair(face: Face) -> bool:
    return face.top not in HATS and face.top != "none"


def _eyes_visible(face: Face) -> bool:
    return face.glasses not in DARK_GLASSES


_DEFINITIONS: dict[str, Callable[[Face], bool]] = {
    "Smiling": lambda f: f.mouth in ("smile", "twinkle"),
    "Mouth_Slightly_Open": lambda f: f.mouth in ("smile", "screamOpen"),
    "Eyeglasses": lambda f: f.glasses in ("prescription02", "round"),
    "Sunglasses": lambda f: f.glasses in DARK_GLASSES,
    "Wearing_Hat": lambda f: f.top in HATS,
    "Bald": lambda f: f.top == "none",
    "Long_Hair": lambda f: f.top in ("straight02", "bob", "curly"),
    "Curly_Hair": lambda f: f.top in ("shortCurly", "curly"),
    "Black_Hair": lambda f: _has_hair(f) and f.hair == "black",
    "Brown_Hair": lambda f: _has_hair(f) and f.hair == "brown",
    "Blond_Hair": lambda f: _has_hair(f) and f.hair == "blond",
    "Gray_Hair": lambda f: _has_hair(f) and f.hair == "gray",
    "Red_Hair": lambda f: _has_hair(f) and f.hair == "red",
    "Beard": lambda f: f.facial_hair.startswith("beard"),
    "Mustache": lambda f: f.facial_hair.startswith("moustache"),
    "Pale_Skin": lambda f: f.skin == "pale",
    "Dark_Skin": lambda f: f.skin == "dark",
    "Arched_Eyebrows": lambda f: f.brows == "raisedExcitedNatural",
    "Angry_Eyebrows": lambda f: f.brows == "angryNatural",
    "Eyes_Closed": lambda f: _eyes_visible(f) and f.eyes == "closed",
    "Narrow_Eyes": lambda f: _eyes_visible(f) and f.eyes == "squint",
    "Wide_Eyes": lambda f: _eyes_visible(f) and f.eyes == "surprised",
}
ATTRIBUTES: tuple[str, ...] = tuple(_DEFINITIONS)

_HAIR_COLORS = ("Black_Hair", "Brown_Hair", "Blond_Hair", "Gray_Hair", "Red_Hair")
_TOPS = ("Wearing_Hat", "Bald", "Long_Hair", "Curly_Hair", *_HAIR_COLORS)
_EYES = ("Eyes_Closed", "Narrow_Eyes", "Wide_Eyes")
_RELATED_GROUPS: tuple[tuple[str, ...], ...] = (
    ("Eyeglasses", "Sunglasses"), ("Beard", "Mustache"), ("Pale_Skin", "Dark_Skin"),
    ("Arched_Eyebrows", "Angry_Eyebrows"), _EYES, _HAIR_COLORS,
)  # fmt: skip


def related(attribute: str) -> tuple[str, ...]:
    """Attributes that `attribute` excludes, implies or hides, and that are therefore not damage when it changes."""
    if attribute not in ATTRIBUTES:
        raise unknown("attribute", attribute, ATTRIBUTES)
    names = {name for group in _RELATED_GROUPS if attribute in group for name in group}
    if attribute in ("Wearing_Hat", "Bald", "Long_Hair", "Curly_Hair"):
        names.update(_TOPS)
    if attribute in _HAIR_COLORS:
        names.update(("Wearing_Hat", "Bald"))
    if attribute == "Sunglasses":
        names.update(_EYES)
    if attribute in _EYES:
        names.add("Sunglasses")
    return tuple(name for name in ATTRIBUTES if name in names and name != attribute)


def attributes(face: Face) -> dict[str, bool]:
    """Truth value of every attribute in `ATTRIBUTES` order."""
    return {name: holds(face) for name, holds in _DEFINITIONS.items()}


def _draw(rng: random.Random, prior: Mapping[str, float]) -> str:
    return rng.choices(list(prior), weights=list(prior.values()))[0]


def sample_face(seed: int, index: int, correlate: tuple[str, str, float] | None = None) -> Face:
    """Face number `index` of the stream `seed`; the same pair gives the same face on every machine.

    `correlate=(a, b, p)` changes, with probability `p`, the one factor that makes attribute `b` equal to `a`, for
    studies of planted bias (p = 0: independent; p = 1: equal wherever one factor can do it, and glasses that
    hide the eyes, say, cannot be given open ones).
    """
    rng = random.Random(f"avatars/{seed}/{index}")
    face = Face(**{name: _draw(rng, prior) for name, prior in PRIORS.items()})
    if correlate is None:
        return face
    first, second, strength = correlate
    if not 0 <= strength <= 1:
        raise SparsightError(f"correlation strength is {strength}, but must lie between 0 and 1")
    wanted = attributes(face)[first]
    if rng.random() < strength and attributes(face)[second] != wanted:
        face = counterfactual(face, second, wanted, rng) or face
    return face


def counterfactual(face: Face, attribute: str, value: bool, rng: random.Random | None = None) -> Face | None:
    """The same face with only `attribute` set to `value`, or None where no single factor can do it.

    Among the changes of one factor that give `value` and leave every unrelated attribute alone, the one
    that also changes fewest related attributes is taken, the likeliest first (or a random one, with `rng`).
    """
    before = attributes(face)
    if attribute not in before:
        raise unknown("attribute", attribute, ATTRIBUTES)
    if before[attribute] == value:
        return face
    candidates = [c for c in _one_factor_changes(face) if attributes(c)[attribute] == value]
    allowed = {attribute, *related(attribute)}
    scored = []
    for order, candidate in enumerate(candidates):
        changed = {n for n, v in attributes(candidate).items() if v != before[n]}
        if changed <= allowed:
            scored.append((len(changed), rng.random() if rng else order, candidate))
    return min(scored, key=lambda item: item[:2])[2] if scored else None


def _one_factor_changes(face: Face) -> list[Face]:
    return [
        replace(face, **{field.name: value})
        for field in fields(face)
        for value in sorted(PRIORS[field.name], key=PRIORS[field.name].__getitem__, reverse=True)
        if value != getattr(face, field.name)
    ]
