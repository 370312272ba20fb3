"""At which strength does an editor move images by a given distance? A search in few trials, for any unit of strength."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

STEEPEST = 1.5  # distances grow about as strength to this power where they are small
GROWTH = 8.0  # the longest stride of one trial
CLOSE = 0.005  # strengths whose logarithms differ by less are one
SATURATED = 1.05  # a stride that gains less than this factor has met a ceiling
PATIENCE = 6  # longest strides that gain nothing from the start on: what an edit does at any strength may hide the rest


@dataclass(frozen=True)
class Match:
    """The strength found for a level, and the distance that it gave. Where `reached` is False it is the strongest there is."""

    level: float
    strength: float
    distance: float
    reached: bool


class Search:
    """Trials of a function from strength to distance, which is 0 at 0 and need only rise on the whole."""

    def __init__(self, distance: Callable[[float], float], start: float, most: int = 24) -> None:
        self.distance, self.most = distance, most
        self.tried: dict[float, float] = {}
        self.broken = math.inf  # strengths from here on give no image
        self.floor = 0.0  # the least distance of an edit that is one at all, where there is such a thing
        self._try(start)
        while self.tried == {} and self.left:
            self._try(self.broken / GROWTH)

    @property
    def left(self) -> bool:
        """Whether a trial is left."""
        return self.most > 0

    @property
    def found(self) -> list[tuple[float, float]]:
        """(strength, distance) of every trial that gave images, weak to strong."""
        return sorted(self.tried.items())

    @property
    def rises(self) -> bool:
        """Whether a stronger edit went farther than the weakest."""
        return self.found[-1][1] > self.found[0][1] * SATURATED

    def _try(self, strength: float) -> None:
        self.most -= 1
        distance = self.distance(strength)
        if math.isfinite(distance):
            self.tried[strength] = distance
        else:
            self.broken = min(self.broken, strength)

    def widen(self, low: float, high: float) -> None:
        """Try until the distances enclose `low` to `high`, or no strength reaches that far."""
        self._weaken(low)
        self._strengthen(high)

    def _weaken(self, low: float) -> None:
        stuck = 0
        while self.left and self.found and self.found[0][1] > low and stuck < 2:
            strength, distance = self.found[0]
            self._try(strength * max((0.8 * low / distance) ** (1 / STEEPEST), 1 / GROWTH))
            stuck = stuck + 1 if self.found[0][1] > distance / SATURATED else 0
        self.floor = self.found[0][1] if stuck == 2 else 0.0

    def _strengthen(self, high: float) -> None:
        stuck = 0
        while self.left and self.found and max(d for _, d in self.found) < high:
            strength, distance = self.found[-1]
            if stuck >= (2 if self.rises else PATIENCE):
                return
            hidden = stuck > 0 and not self.rises  # behind what the edit does at any strength
            stride = GROWTH if hidden else max((1.1 * high / max(distance, 1e-9)) ** (1 / STEEPEST), SATURATED)
            following = min(strength * min(stride, GROWTH), (strength + self.broken) / 2)
            if following < strength * SATURATED and self.broken < math.inf:
                return  # nothing is left between the strongest edit and the first broken one
            self._try(following)
            stuck = stuck + 1 if self.found[-1][1] < distance * SATURATED else 0

    def to(self, level: float, tolerance: float) -> Match:
        """The strength at `level`, to within the share `tolerance` if trials suffice."""
        while self.left and abs(self._nearest(level)[1] - level) > tolerance * level:
            following = self._between(level) if level > self.floor else None
            if following is None or any(abs(math.log(following / s)) < CLOSE for s in self.tried):
                break  # edits that go by whole steps have no strength in between
            self._try(following)
        strength, distance = self._nearest(level)
        return Match(level, strength, distance, distance >= (1 - max(2 * tolerance, 0.1)) * level)

    def _nearest(self, level: float) -> tuple[float, float]:
        """The trial that comes nearest; what an edit does at any strength is no trial of a level above that."""
        always = self.floor * SATURATED
        lifted = [pair for pair in self.found if pair[1] > always] if level > always else []
        return min(lifted or self.found, key=lambda pair: abs(math.log(max(pair[1], 1e-12) / level)))

    def _between(self, level: float) -> float | None:
        """Interpolated in logarithms within the first crossing of the level; None where there is none."""
        below: tuple[float, float] | None = None
        for strength, distance in self.found:
            if distance >= level:
                if below is None or below[1] <= 0:
                    return strength * (level / distance) ** (1 / STEEPEST)
                slope = math.log(strength / below[0]) / math.log(distance / below[1])
                return below[0] * (level / below[1]) ** slope
            below = (strength, distance)
        return None


def match_levels(
    distance: Callable[[float], float], levels: Sequence[float], start: float, tolerance: float = 0.1, most: int = 24
) -> list[Match]:
    """The strength for each of the rising `levels`; `distance` gives NaN where an edit breaks down.

    An edit that cannot be weaker than some distance is at its weakest for the levels below it. Levels that no strength
    reaches are one last match with `reached` False, at the strongest edit there is, unless that is hardly farther than the
    level before. Empty where no strength gives images at all, or none that differ.
    """
    search = Search(distance, start, most)
    search.widen(levels[0], levels[-1])
    if not search.found or max(d for _, d in search.found) <= 0:
        return []
    matches: list[Match] = []
    for level in levels:
        match = search.to(level, tolerance)
        if not match.reached:
            strength, far = max(search.found, key=lambda pair: pair[1])
            if not matches or far > matches[-1].distance * (1 + tolerance):
                matches.append(Match(level, strength, far, False))
            break
        matches.append(match)
    return matches
