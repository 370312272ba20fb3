"""The charts of a comparison: curves of change against damage, the ranking, and the few-shot curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from sparsight.report.chart_style import ACCENT, INK, MUTED, PAPER, RULE, chart
from sparsight.report.compare.names import short
from sparsight.report.numbers import Number, digits, read_number
from sparsight.report.run_files import dig, listing, number

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Points = list[tuple[float, float]]
STROKES = ((0, ()), (0, (5, 2)), (0, (1.5, 1.5)), (0, (5, 1.5, 1.5, 1.5)))
APART = 0.075  # of the chart's height: the least distance of two labels
DAMAGES = (
    ("distance", "perceptual distance"),
    ("damage", "change of other logits"),
    ("identity_loss", "loss of identity"),
)


def points(curve: Any, over: str) -> Points:
    """(damage, share of the whole change) of a curve in metrics.json, from no edit on; a level not reached is not repeated."""
    found: Points = [(0.0, 0.0)]
    for x, y in zip(listing(dig(curve, over)), listing(dig(curve, "share")), strict=False):
        pair = (number(dig(x, "value")), number(dig(y, "value")))
        if pair[0] is not None and pair[1] is not None and (pair[0], pair[1]) != found[-1]:
            found.append((pair[0], pair[1]))
    return found


def curve_chart(
    curves: Mapping[str, Any],
    shown: Sequence[str],
    over: str,
    title: str,
    size: tuple[int, int],
    ours: str,
    limit: float | None = None,
    truth: Any = None,
) -> Markup:
    """All methods thin, `shown` in the strokes of `strokes`, ours in the accent colour with its interval.

    `limit` is where areas end. `truth` is the curve of the true edit, broad and pale behind all others.
    """
    known = {name: points(curve, over) for name, curve in curves.items()}
    known = {name: line for name, line in known.items() if len(line) > 1}
    named = [n for n in shown if n in known]

    def draw(ax: Axes) -> None:
        for name, line in known.items():
            if name not in named:
                ax.plot(*zip(*line, strict=True), color=MUTED, linewidth=0.8, alpha=0.45, zorder=1)
        for name in named:
            style: dict[str, Any] = {"color": INK, "linewidth": 1.3, "linestyle": stroke(shown, name, ours)}
            if name == ours:
                style = {
                    "color": ACCENT,
                    "linewidth": 2,
                    "marker": "o",
                    "markersize": 4,
                    "markeredgecolor": PAPER,
                    "zorder": 4,
                }
            ax.plot(*zip(*known[name], strict=True), **style)
        _band(ax, curves.get(ours), over)
        ax.plot(*zip(*points(truth, over), strict=True), color=RULE, linewidth=6, solid_capstyle="butt", zorder=0)
        if limit is not None:
            ax.axvline(limit, color=RULE, linewidth=0.8, linestyle=(0, (3, 3)), zorder=0)
        ax.axhline(0, color=RULE, linewidth=0.8, zorder=0)
        ax.locator_params(nbins=5)
        ends = [line[-1][0] for name, line in known.items() if name in named] or [1.0]
        ax.set_xlim(0, 1.06 * max(ends))
        ax.set_xlabel(dict(DAMAGES)[over])

    said = f"{title}: change of the target over {dict(DAMAGES)[over]}, {len(known)} methods"
    return chart(draw, *size, said, f"{over} {title}") if known else Markup()


def _band(ax: Axes, curve: Any, over: str) -> None:
    """The interval of a curve's heights, from no edit on."""
    xs, shares = listing(dig(curve, over)), listing(dig(curve, "share"))
    found = [
        [number(dig(x, "value")), number(dig(y, "low")), number(dig(y, "high"))]
        for x, y in zip(xs, shares, strict=False)
    ]
    known = [(0.0, 0.0, 0.0), *((x, a, b) for x, a, b in found if x is not None and a is not None and b is not None)]
    if len(known) > 1:
        at, lows, highs = (list(column) for column in zip(*known, strict=True))
        ax.fill_between(at, lows, highs, color=ACCENT, alpha=0.13, linewidth=0)


def stroke(shown: Sequence[str], name: str, ours: str) -> tuple[float, tuple[float, ...]]:
    """The dashes of a method that is named: one for each place."""
    others = [n for n in shown if n != ours]
    return STROKES[others.index(name) % len(STROKES)] if name in others else STROKES[0]


def strokes(shown: Sequence[str], ours: str) -> list[tuple[str, str]]:
    """The legend of all curves: each name with its dashes, as SVG says them."""
    return [(name, " ".join(f"{1.3 * length:g}" for length in stroke(shown, name, ours)[1])) for name in shown]


def _names(ax: Axes, ends: Mapping[str, tuple[float, float]], ours: str) -> None:
    """Names beside the ends of curves, pushed apart where they would lie on each other."""
    low, high = ax.get_ylim()
    right, last = ax.get_xlim()[1], -float("inf")
    for name, (_, y) in sorted(ends.items(), key=lambda item: item[1][1]):
        at = max(y, last + APART * (high - low))
        last = at
        colour = ACCENT if name == ours else INK
        ax.annotate(
            short(name),
            (right, at),
            (6, -4),
            textcoords="offset points",
            color=colour,
            size=10.5,
            annotation_clip=False,
        )


def rank_chart(rows: Sequence[tuple[str, Number]], title: str, ours: str, truth: Number) -> Markup:
    """One dot with its interval for each method, best first, ours in the accent colour; `truth` is a broad pale line."""
    known = [(name, n) for name, n in rows if n.value is not None]

    def draw(ax: Axes) -> None:
        for y, (name, n) in enumerate(known):
            colour, value = (ACCENT if name == ours else MUTED), n.value or 0.0
            low, high = (value if end is None else end for end in (n.low, n.high))
            ax.plot([low, high], [y, y], color=colour, linewidth=1.6, alpha=0.75)
            ax.plot([value], [y], "o", color=colour, markersize=6.5, markeredgecolor=PAPER)
            ax.annotate(digits(value), (high, y), (7, -4), textcoords="offset points", color=colour, size=10.5)
        ax.axvline(0, color=RULE, linewidth=0.8, zorder=0)
        if truth.value is not None:
            ax.axvline(truth.value, color=RULE, linewidth=6, zorder=0)
        ax.set_yticks(range(len(known)), [short(name) for name, _ in known])
        for tick, (name, _) in zip(ax.get_yticklabels(), known, strict=True):
            tick.set_color(ACCENT if name == ours else INK)
        ax.set_ylim(len(known) - 0.4, -0.6)
        ax.margins(x=0.12)
        ax.tick_params(axis="y", length=0)
        ax.spines["left"].set_visible(False)

    return chart(draw, 620, 46 + 22 * len(known), title, f"ranking {title}") if known else Markup()


def few_chart(few: Mapping[str, Any], ours: str) -> Markup:
    """AUC over the number of images or labels, a line a method, with its intervals."""
    read = {name: {int(n): read_number(by, n) for n in sorted(by, key=int)} for name, by in few.items()}
    known = {name: {n: one for n, one in by.items() if one.value is not None} for name, by in read.items()}
    lines = {name: [(n, one.value or 0.0) for n, one in by.items()] for name, by in known.items() if by}

    def draw(ax: Axes) -> None:
        for place, (name, line) in enumerate(lines.items()):
            style: dict[str, Any] = {"color": ACCENT, "linewidth": 2} if name == ours else {
                "color": INK, "linewidth": 1.2, "linestyle": STROKES[place % len(STROKES)]}  # fmt: skip
            ax.plot(*zip(*line, strict=True), marker="o", markersize=3.5, **style)
            for n, one in known[name].items():
                if one.low is not None and one.high is not None:
                    ax.vlines(n, one.low, one.high, color=style["color"], linewidth=1, alpha=0.5)
        ticks = sorted({n for line in lines.values() for n, _ in line})
        ax.set_xscale("log")
        ax.set_xticks(ticks, [f"{n:,}" for n in ticks])
        ax.minorticks_off()
        ax.axhline(0, color=RULE, linewidth=0.8, zorder=0)
        ax.set_xlabel("images or labels learned from")
        _names(ax, {name: (float(line[-1][0]), line[-1][1]) for name, line in lines.items()}, ours)

    return chart(draw, 620, 300, "AUC over the number of images learned from", "few") if lines else Markup()
