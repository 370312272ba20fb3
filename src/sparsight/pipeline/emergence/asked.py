"""What a user asks of his own prompt: a word to a place, a style, and when; each parsed and checked before any work."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from sparsight.errors import SparsightError, unknown
from sparsight.images import SUFFIXES, read_image
from sparsight.metrics import QUADRANTS, quadrant_region
from sparsight.steering import fraction_window, to_grid


@dataclass(frozen=True)
class Move:
    """Put `word` into `place`, a quadrant or the path of a mask, and take it away elsewhere.

    `strength` is the mean norm of the push over the mean norm of the tokens; None takes what the run chose. Raises
    `SparsightError` for no word, a place that is neither a quadrant nor a file's name, and a strength below 0.
    """

    word: str
    place: str
    strength: float | None = None

    def __post_init__(self) -> None:
        require_word(self.word)
        if not is_place(self.place):
            raise unknown("quadrant or mask file", self.place, QUADRANTS)
        if self.strength is not None and not 0 <= self.strength < math.inf:
            raise SparsightError(f"the strength of a move must be a number from 0 on, not {self.strength:g}")

    @classmethod
    def parse(cls, text: str) -> Move:
        """From WORD:PLACE or WORD:PLACE:STRENGTH, as in "cat:top-left:4"."""
        word, _, rest = text.partition(":")
        if not word.strip() or not rest.strip():
            raise SparsightError(f"--move {text!r} must have the form WORD:PLACE or WORD:PLACE:STRENGTH")
        place, colon, last = rest.rpartition(":")
        if not colon or (_number(last) is None and not is_place(place)):
            return cls(word.strip(), rest.strip())  # a colon may belong to the name of a file
        return cls(word.strip(), place.strip(), _strength(last, f"--move {text!r}"))

    def region(self, grid: tuple[int, int]) -> Tensor:
        """The positions of a site's grid (h, w) that lie in the place: bool (h, w).

        White pixels of a mask are in it, black ones are not, the border lies at half brightness; a position of the grid
        belongs to it where half of its pixels do. Raises `SparsightError` for a file that is missing, no image, or empty.
        """
        return quadrant_region(self.place, grid) if self.place in QUADRANTS else read_mask(Path(self.place), grid)

    def __str__(self) -> str:
        return f"{self.word} to {self.place}"


@dataclass(frozen=True)
class Style:
    """Bring `word` in everywhere; a negative `strength`, in the same unit as a move's, takes it away."""

    word: str
    strength: float | None = None

    def __post_init__(self) -> None:
        require_word(self.word)
        if self.strength is not None and not math.isfinite(self.strength):
            raise SparsightError(f"the strength of a style must be a finite number, not {self.strength}")

    @classmethod
    def parse(cls, text: str) -> Style:
        """From WORD or WORD:STRENGTH, as in "pencil:0.6"."""
        word, colon, last = text.partition(":")
        if not word.strip():
            raise SparsightError(f"--style {text!r} must have the form WORD or WORD:STRENGTH")
        return cls(word.strip(), _strength(last, f"--style {text!r}") if colon else None)

    def __str__(self) -> str:
        return self.word


def parse_window(text: str) -> tuple[float, float]:
    """ "0.6-1.0" as (0.6, 1.0): fractions of t, from 0 (image) to 1 (noise), the lower one first."""
    found = re.fullmatch(r"\s*(\d*\.?\d+)\s*-\s*(\d*\.?\d+)\s*", text)
    if found is None:
        raise SparsightError(f"--window {text!r} must have the form LOW-HIGH, such as 0.6-1.0; 0 is the image, 1 noise")
    low, high = float(found[1]), float(found[2])
    fraction_window(low, high)  # says what is wrong with the order or the limits
    return low, high


def read_mask(path: Path, grid: tuple[int, int]) -> Tensor:
    """An image file of any size as a mask of the grid (h, w), bool; see `Move.region`."""
    pixels = read_image(path)[0].mean(0) >= 0
    if not bool(pixels.any()):
        raise SparsightError(f"the mask {path} is empty: white pixels mark the region, and it has none")
    region = to_grid(pixels, grid)
    if not bool(region.any()):
        raise SparsightError(
            f"the mask {path} covers no position of the {grid[0]}x{grid[1]} grid by half: draw it larger"
        )
    return region


def require_word(word: str) -> None:
    """Raise `SparsightError` for an empty word."""
    if not word.strip():
        raise SparsightError("an edit needs a word of the run's concept dictionary")


def is_place(text: str) -> bool:
    """Whether a text is a quadrant, or can be meant as an image file."""
    return text in QUADRANTS or Path(text).suffix.lower() in SUFFIXES or "/" in text or Path(text).is_file()


def _strength(text: str, where: str) -> float:
    found = _number(text)
    if found is None:
        raise SparsightError(f"{where} ends in {text!r}, which is no strength: it must be a number such as 0.6")
    return found


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
