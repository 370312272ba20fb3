"""A concept: something that a person names, given by a pair of texts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from sparsight.errors import unknown


@dataclass(frozen=True)
class Concept:
    """`source` is the text without the concept, `target` with it; `attribute` names the label that judges it, if any.

    The CASL paper's one known pair is ("person", "person with beards").

    A concept of layout is an object, `thing`, in a quadrant, `place`. Where words cannot say so, both texts are the thing's.
    """

    name: str
    source: str
    target: str
    attribute: str | None = None
    thing: str | None = None
    place: str | None = None


def choose(names: Iterable[str], known: Mapping[str, Concept], what: str = "concept") -> list[Concept]:
    """The known concepts of these names, letter case and blanks aside.

    Raises `SparsightError` for an unknown one, as an unknown `what`, with the nearest names.
    """
    by_key = {_key(name): concept for name, concept in known.items()}
    chosen = []
    for name in names:
        if _key(name) not in by_key:
            raise unknown(what, name, known)
        chosen.append(by_key[_key(name)])
    return chosen


def _key(name: str) -> str:
    return name.strip().lower().replace(" ", "_").replace("-", "_")
