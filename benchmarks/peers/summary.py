"""From the steps of a run to figures: medians over the rounds, and ratios within each round."""

from __future__ import annotations

from statistics import median
from typing import Any

Steps = dict[str, list[dict[str, float]]]
OURS = "sparsight"


def rate(steps: Steps, name: str, batch: int) -> dict[str, float | None]:
    """Tokens per CPU second, the roofline's time / this one's (None without a roofline), and the peak memory."""
    share = ratio(steps, "roofline", name)["median"] if "roofline" in steps else None
    return {
        "tokens_per_s": round(batch / median(step["cpu"] for step in steps[name]), 1),
        "roofline_share": share,
        "peak_mb": round(max(step["peak_mb"] for step in steps[name]), 1),
    }


def ratio(steps: Steps, over: str, under: str) -> dict[str, float]:
    """Time of `over` / time of `under` within a round: the median, the lowest and the highest."""
    each = sorted(a["cpu"] / b["cpu"] for a, b in zip(steps[over], steps[under], strict=True))
    return {"median": round(median(each), 3), "low": round(each[0], 3), "high": round(each[-1], 3)}


def ratios(steps: Steps) -> list[dict[str, Any]]:
    """How many times as fast as every other library sparsight is."""
    if OURS not in steps:
        return []
    return [{"library": name} | ratio(steps, name, OURS) for name in steps if name not in (OURS, "roofline")]


def table(rows: list[dict], against: list[dict], roofline: list[dict] | None) -> str:
    """The figures of one workload as text."""
    times = {one["library"]: f"{one['median']:5.2f} ({one['low']:.2f} ... {one['high']:.2f})" for one in against}
    lines = [f"  {'library':20s} {'tokens/s':>9s} {'roofline':>9s} {'peak MB':>8s}  its time / sparsight's"]
    for row in rows:
        share = "" if row["roofline_share"] is None else f"{row['roofline_share']:.2f}"
        figures = f"{row['tokens_per_s']:9.0f} {share:>9s} {row['peak_mb']:8.0f}"
        lines.append(f"  {row['library']:20s} {figures}  {times.get(row['library'], '')}".rstrip())
    if roofline:
        lines.append(f"  roofline: {median(step['cpu'] for step in roofline):.3f} s a step")
    return "\n".join(lines)
