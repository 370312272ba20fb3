"""The table that ends a comparison on the command line."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table


def print_comparison(metrics: dict[str, Any]) -> None:
    """The ranking, and what did not run."""
    console, methods = Console(), metrics["methods"]
    psnr = metrics["inversion"]["psnr"]["value"]
    console.print(f"inversion: {psnr:.1f} dB, {len(methods)} methods, {len(metrics['failed'])} cells failed")
    table = Table(title=f"AUC of target change over perceptual distance, judge {metrics['names']['judge']}")
    for column in ("place", "method", "AUC", "casl minus it", "EPR", "flips"):
        table.add_column(column, no_wrap=column == "method")
    for name in sorted(methods, key=lambda n: methods[n]["rank"]["value"] or len(methods)):
        one = methods[name]
        shown = [_figure(one[key]) for key in ("auc", "versus_casl", "epr", "flip_rate")]
        table.add_row(f"{one['rank']['value'] or 0:g}", name, *shown)
    console.print(table)
    for name, one in metrics["not_applicable"].items():
        console.print(f"not applicable: {name}: {escape(one['why'])}", soft_wrap=True)
    for cell, why in metrics["failed"].items():
        console.print(f"[red]failed[/red]: {escape(cell)}: {escape(why)}", soft_wrap=True)


def _figure(interval: dict[str, Any] | None) -> str:
    if not interval or interval["value"] is None:
        return "-"
    ends = "" if interval["low"] is None else f" [{interval['low']:.2f}, {interval['high']:.2f}]"
    return f"{interval['value']:.2f}{ends}"
