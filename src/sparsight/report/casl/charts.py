"""The charts of the report, each a function from read figures to one SVG."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from sparsight.report.chart_style import ACCENT, INK, MUTED, PAPER, RULE, chart
from sparsight.report.numbers import Number, digits, label, read_number
from sparsight.report.run_files import number

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PROBED = (1, 2, 4, 8, 16)
MARKERS = "os^Dv<>phX*"


def dot_chart(rows: Sequence[tuple[str, Number]], limits: tuple[float, float] | None, title: str) -> Markup:
    """One dot with its interval for each method, CASL in the accent colour, on a log scale."""
    known = [(name, n) for name, n in rows if n.value is not None and n.value > 0]

    def draw(ax: Axes) -> None:
        for y, (name, n) in enumerate(known):
            colour = ACCENT if name == "casl" else MUTED
            value = n.value or 0.0
            low, high = max(n.low or value, 1e-3), n.high or value
            ax.plot([low, high], [y, y], color=colour, linewidth=1.6, alpha=0.75)
            ax.plot([value], [y], "o", color=colour, markersize=6.5, markeredgecolor=PAPER)
        ax.set_xscale("log")
        _plain_log(ax, limits)
        ax.axvline(1, color=RULE, linewidth=0.8, zorder=0)
        ax.set_yticks(range(len(known)), [label(name) for name, _ in known])
        for tick, (name, _) in zip(ax.get_yticklabels(), known, strict=True):
            tick.set_color(INK if name == "casl" else MUTED)
        ax.set_ylim(len(known) - 0.5, -0.6)
        ax.tick_params(axis="y", length=0)
        ax.spines["left"].set_visible(False)

    return chart(draw, 330, 44 + 23 * len(known), title, "dots " + title) if known else Markup()


def _plain_log(ax: Axes, limits: tuple[float, float] | None, axis: str = "x") -> None:
    """Numbers that people read instead of powers of ten."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    low, high = limits or getattr(ax, f"get_{axis}lim")()
    ticks = [m * 10.0**e for e in range(-4, 5) for m in (1, 2, 5) if low <= m * 10.0**e <= high]
    getattr(ax, f"set_{axis}lim")(low, high)
    target = getattr(ax, f"{axis}axis")
    target.set_major_locator(FixedLocator(ticks if len(ticks) < 8 else ticks[::3]))
    target.set_minor_locator(NullLocator())
    target.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))


def log_limits(numbers: Sequence[Number]) -> tuple[float, float] | None:
    """One range for all panels, so that they can be read side by side."""
    ends = [v for n in numbers for v in (n.low, n.value, n.high) if v is not None and v > 0]
    return (max(min(ends), 0.01) / 1.15, max(ends) * 1.15) if ends else None


def probe_chart(metrics: Any, concept: str) -> Markup:
    """Held-out accuracy against the number of latents, with the shuffled baseline."""
    base = ("concepts", concept, "probe")
    points = [(k, read_number(metrics, *base, f"top{k}")) for k in PROBED]
    known = [(k, n) for k, n in points if n.value is not None]
    shuffled = read_number(metrics, *base, "shuffled")

    def draw(ax: Axes) -> None:
        xs, values = [k for k, _ in known], [n.value or 0.0 for _, n in known]
        _band(ax, xs, [n for _, n in known])
        ax.plot(xs, values, "o-", color=ACCENT, markersize=4.5, markeredgecolor=PAPER)
        ax.annotate(digits(values[-1], "%"), (xs[-1], values[-1]), (7, -3), textcoords="offset points", color=ACCENT)
        _shuffled(ax, shuffled)
        ax.set_xscale("log", base=2)
        ax.set_xticks(PROBED, [str(k) for k in PROBED])
        ax.set_xlim(0.85, 24)
        ax.set_ylim(min([0.4, *values]), 1.02)
        ax.set_yticks([0.5, 0.75, 1.0], ["50 %", "75 %", "100 %"])

    if not known:
        return Markup()
    said = ", ".join(f"top {k}: {n.text}" for k, n in known)
    return chart(draw, 250, 156, f"Probe accuracy, {label(concept)}: {said}", "probe " + concept)


def _band(ax: Axes, xs: Sequence[float], numbers: Sequence[Number]) -> None:
    if all(n.low is not None and n.high is not None for n in numbers):
        lows, highs = [n.low or 0.0 for n in numbers], [n.high or 0.0 for n in numbers]
        ax.fill_between(xs, lows, highs, color=ACCENT, alpha=0.14, linewidth=0)


def _shuffled(ax: Axes, shuffled: Number) -> None:
    if shuffled.value is None:
        return
    if shuffled.low is not None and shuffled.high is not None:
        ax.axhspan(shuffled.low, shuffled.high, color=MUTED, alpha=0.1, linewidth=0)
    ax.axhline(shuffled.value, color=MUTED, linewidth=1, linestyle=(0, (3, 3)))
    ax.annotate("shuffled", (16, shuffled.value), (0, 4), textcoords="offset points", color=MUTED, ha="right", size=10)


def training_chart(log: Sequence[dict[str, Any]], key: str, name: str, logarithmic: bool) -> Markup:
    """One curve of the SAE's training, with the same figure on held-out tokens where it was logged."""
    train, held_out = _series(log, key), _series(log, f"val_{key}")

    def draw(ax: Axes) -> None:
        ax.plot(*zip(*train, strict=True), color=ACCENT, linewidth=1.6)
        if held_out:
            ax.plot(*zip(*held_out, strict=True), "o", color=INK, markersize=2.6)
            ax.annotate("held out", held_out[-1], (-2, 7), textcoords="offset points", color=INK, ha="right", size=10)
        if logarithmic and min(v for _, v in train) > 0:
            ax.set_yscale("log")
            _plain_log(ax, None, "y")
        else:
            ax.locator_params(axis="y", nbins=4)
        ax.locator_params(axis="x", nbins=4)
        ax.xaxis.set_major_formatter(lambda v, _: f"{v / 1000:g}k" if v >= 1000 else f"{v:g}")

    if len(train) < 2:
        return Markup()
    return chart(draw, 250, 150, f"{name} in training, ending at {digits(train[-1][1])}", "training " + key)


def _series(log: Sequence[dict[str, Any]], key: str, most: int = 160) -> list[tuple[float, float]]:
    pairs = [(number(entry.get("step")), number(entry.get(key))) for entry in log]
    whole = [(step, value) for step, value in pairs if step is not None and value is not None]
    return [*whole[:: max(1, len(whole) // most)], *whole[-1:]]


def truth_chart(points: Sequence[tuple[str, float, float]]) -> Markup:
    """EPR against counterfactual gain; `points` are (method, EPR, gain), one for each concept and method."""
    methods = list(dict.fromkeys(name for name, _, _ in points))

    def draw(ax: Axes) -> None:
        for i, method in enumerate(methods):
            xs, ys = zip(*((x, y) for name, x, y in points if name == method), strict=True)
            style: dict[str, Any] = {"color": ACCENT} if method == "casl" else {"facecolor": PAPER, "edgecolor": MUTED}
            order = 3 if method == "casl" else 2
            ax.scatter(xs, ys, s=38, marker=MARKERS[i % len(MARKERS)], label=label(method), zorder=order, **style)
        ax.set_xscale("log")
        _plain_log(ax, None)
        ax.axhline(0, color=RULE, linewidth=0.8, zorder=0)
        ax.set_xlabel("EPR, log scale")
        ax.set_ylabel("counterfactual gain")
        columns = {"ncols": 3, "frameon": False, "fontsize": 10, "handletextpad": 0.1, "columnspacing": 1.0}
        ax.figure.legend(loc="outside upper left", **columns)  # type: ignore[arg-type]

    known = f"EPR against counterfactual gain, {len(points)} pairs of concept and method"
    return chart(draw, 440, 360, known, "truth") if len(points) > 1 else Markup()
