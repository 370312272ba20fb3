"""Charts of figures by stage or timestep: lines with bands, named at their right end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from markupsafe import Markup

from sparsight.report.chart_style import ACCENT, INK, MUTED, PAPER, RULE, chart
from sparsight.report.numbers import Number

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = {"main": ACCENT, "second": INK, "muted": MUTED}


@dataclass(frozen=True)
class Line:
    """A series: its name, its points (x, figure), and how much it stands out ("main", "second" or "muted")."""

    name: str
    points: Sequence[tuple[float, Number]]
    weight: str = "muted"
    dash: tuple[float, ...] = ()
    marker: str = "o"

    @property
    def known(self) -> list[tuple[float, Number]]:
        """The points that were measured."""
        return [(x, n) for x, n in self.points if n.value is not None]


@dataclass(frozen=True)
class Plot:
    """What all panels of a figure share: the ticks of x, the ends of y and its name, and the size."""

    ticks: Sequence[tuple[float, str]]
    limits: tuple[float, float]
    y: str = ""
    x: str = ""
    size: tuple[float, float] = (330, 240)
    levels: Sequence[tuple[str, Number]] = field(default_factory=tuple)  # levels that do not change along x


def line_chart(plot: Plot, lines: Sequence[Line], title: str) -> Markup:
    """One panel; nothing where no line has a point."""
    drawn = [line for line in lines if line.known]
    if not drawn:
        return Markup()

    def draw(ax: Axes) -> None:
        for line in drawn:
            _line(ax, line)
        for _, n in plot.levels:
            ax.axhline(n.value or 0.0, color=MUTED, linewidth=1, linestyle=(0, (1.5, 2.5)), zorder=1)
        _axes(ax, plot)
        _names(ax, plot, drawn)

    said = "; ".join(f"{line.name}: " + ", ".join(n.text for _, n in line.known) for line in drawn)
    levels = "".join(f"; {name}: {n.text}" for name, n in plot.levels)
    return chart(draw, *plot.size, f"{title}. {said}{levels}", title)


def _line(ax: Axes, line: Line) -> None:
    """The line, broken where a figure is missing, with its band unless it stands back."""
    colour, main, gap = COLOURS[line.weight], line.weight == "main", float("nan")
    xs, ys = [x for x, _ in line.points], [gap if n.value is None else n.value for _, n in line.points]
    if line.weight != "muted":
        lows = [gap if n.low is None else n.low for _, n in line.points]
        highs = [gap if n.high is None else n.high for _, n in line.points]
        ax.fill_between(xs, lows, highs, color=colour, alpha=0.16 if main else 0.08, linewidth=0)
    style = (0, line.dash) if line.dash else "-"
    ax.plot(xs, ys, color=colour, linewidth=2.2 if main else 1.5, linestyle=style, zorder=4 if main else 3)
    size = 6.5 if main else 5
    ax.plot(xs, ys, line.marker, color=colour, markersize=size, markeredgecolor=PAPER, zorder=5 if main else 3)


def _axes(ax: Axes, plot: Plot) -> None:
    first, last = plot.ticks[0][0], plot.ticks[-1][0]
    margin = 0.06 * (last - first) or 0.5
    ax.set_xlim(first - margin, last + margin)  # a falling axis, as that of t, runs from a large x to a small one
    ax.set_ylim(*plot.limits)
    ax.set_xticks([x for x, _ in plot.ticks], [name for _, name in plot.ticks])
    ax.locator_params(axis="y", nbins=5)
    ax.grid(axis="y", color=RULE, linewidth=0.5, alpha=0.6)
    ax.set_axisbelow(True)
    ax.set_ylabel(plot.y)
    ax.set_xlabel(plot.x)
    ax.spines["left"].set_visible(False)
    ax.tick_params(axis="y", length=0)


def _names(ax: Axes, plot: Plot, lines: Sequence[Line]) -> None:
    """Each name beside the end of its line, moved up or down where two would touch."""
    wanted = [(line.known[-1][1].value or 0.0, line.name, COLOURS[line.weight]) for line in lines]
    wanted += [(n.value or 0.0, name, MUTED) for name, n in plot.levels if n.value is not None]
    wanted.sort()
    low, high = plot.limits
    places = spread([y for y, *_ in wanted], (high - low) * 15 / (plot.size[1] - 40), low, high)
    for place, (_, name, colour) in zip(places, wanted, strict=True):
        ax.annotate(name, (1.0, place), (6, 0), xycoords=("axes fraction", "data"), textcoords="offset points",
                    color=colour, size=11, va="center", annotation_clip=False)  # fmt: skip


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Rising places near the wanted ones (rising too), `gap` apart and, where there is room, within the ends."""
    places: list[float] = []
    for value in wanted:
        places.append(max(value, places[-1] + gap) if places else max(value, low))
    for i in range(len(places) - 1, -1, -1):
        ceiling = places[i + 1] - gap if i + 1 < len(places) else high
        places[i] = min(places[i], ceiling)
    return places


def limits_of(numbers: Sequence[Number], floor: float | None = 0.0) -> tuple[float, float]:
    """Ends of y that hold every figure and its interval; from `floor` up where one is given."""
    ends = [v for n in numbers for v in (n.low, n.value, n.high) if v is not None]
    low = min(ends, default=0.0) if floor is None else floor
    high = max(ends, default=1.0)
    room = 0.08 * (high - low) or 0.05
    return (low if floor is not None else low - room, high + room)
