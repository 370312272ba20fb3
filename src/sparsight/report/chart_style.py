"""Charts as inline SVG: text stays text, and colours are the page's own variables, so that dark mode needs no second chart."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Drawn in these stand-ins, which no one else would use, and replaced by the page's variables afterwards.
INK, MUTED, RULE, ACCENT, PAPER = "#010107", "#020207", "#030307", "#040407", "#050507"
VARIABLES = {INK: "--ink", MUTED: "--muted", RULE: "--rule", ACCENT: "--accent", PAPER: "--paper"}

STYLE: Any = {
    "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 12, "text.parse_math": False,
    "text.color": INK, "axes.labelcolor": MUTED, "axes.labelsize": 12, "axes.edgecolor": RULE, "axes.linewidth": 0.8,
    "axes.facecolor": "none", "figure.facecolor": "none", "axes.spines.top": False, "axes.spines.right": False,
    "xtick.color": RULE, "ytick.color": RULE, "xtick.labelcolor": MUTED, "ytick.labelcolor": MUTED,
    "xtick.labelsize": 11.5, "ytick.labelsize": 11.5, "xtick.major.size": 3, "ytick.major.size": 3,
    "xtick.major.width": 0.8, "ytick.major.width": 0.8, "xtick.minor.visible": False, "ytick.minor.visible": False,
    "axes.unicode_minus": True, "axes.formatter.use_mathtext": False, "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
}  # fmt: skip


def chart(draw: Callable[[Axes], None], width: float, height: float, title: str, salt: str) -> Markup:
    """`draw` on fresh axes of `width` by `height` CSS pixels; `title` is what a screen reader says.

    `salt` keeps the ids of two charts on one page apart. No state of pyplot is touched.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE | {"svg.hashsalt": salt}):
        figure = Figure(figsize=(width / 72, height / 72), layout="constrained")
        figure.get_layout_engine().set(w_pad=0.04, h_pad=0.04)  # type: ignore[union-attr, call-arg]
        draw(figure.add_subplot())
        buffer = io.StringIO()
        metadata: dict[str, Any] = {"Date": None, "Creator": None, "Format": None, "Type": None}
        FigureCanvasSVG(figure).print_svg(buffer, metadata=metadata)
    return _inline(buffer.getvalue(), width, title)


def _inline(text: str, width: float, title: str) -> Markup:
    """The `<svg>` element alone, scaling with its column, in the page's font and colours."""
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", text, flags=re.S)
    used = set(re.findall(r"#([\w-]+)", text))
    text = re.sub(r' id="([^"]+)"', lambda m: m.group() if m.group(1) in used else "", text)
    text = re.sub(r"font: ([\d.]+)px [^;\"]+", r"font-size: \1px", text)
    for stand_in, variable in VARIABLES.items():
        text = text.replace(stand_in, f"var({variable})")
    view = re.search(r'viewBox="[^"]+"', text)
    head = Markup('<svg class="chart" role="img" aria-label="{}" style="--w:{}px" {} xmlns:xlink="{}">').format(
        title, round(width), Markup(view.group() if view else ""), "http://www.w3.org/1999/xlink"
    )
    return head + Markup(re.sub(r">\s+<", "><", text[text.index(">") + 1 :].strip()))
