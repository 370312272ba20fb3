"""The table that ends a comparison on the command line."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sparsight.markdown import interval


def print_comparison(metrics: dict[str, Any]) -> None:
    """The ranking, and what did not run."""
    console, psnr = Console(), metrics["inversion"]["psnr"]
    inversion = f"inversion: {psnr['value']:.1f} dB" if psnr else "nothing was inverted"
    console.print(f"{inversion}, {len(metrics['methods'])} methods, {len(metrics['failed'])} cells failed")
    for kind, own in (metrics.get("kinds") or {"": metrics}).items():
        console.print(_ranking(own["methods"], metrics, kind))
    for name, one in metrics["not_applicable"].items():
        console.print(f"not applicable: {name}: {escape(one['why'])}", soft_wrap=True)
    for name, by in metrics.get("unfit", {}).items():
        for why in dict.fromkeys(by.values()):
            to = ", ".join(concept for concept, own in by.items() if own == why)
            console.print(f"not applicable: {name} to {to}: {escape(why)}", soft_wrap=True)
    for cell, why in metrics["failed"].items():
        console.print(f"[red]failed[/red]: {escape(cell)}: {escape(why)}", soft_wrap=True)


def _ranking(methods: dict[str, Any], metrics: dict[str, Any], kind: str) -> Table:
    """The methods on one kind of concepts, best first."""
    ours, of = metrics.get("ours", "casl"), f" of {kind}" if kind else ""
    table = Table(title=f"AUC of target change{of} over perceptual distance, judge {metrics['names']['judge']}")
    for column in ("place", "method", "AUC", f"{ours} minus it", "EPR", "flips"):
        table.add_column(column, no_wrap=column == "method")
    for name in sorted(methods, key=lambda n: methods[n]["rank"]["value"] or len(methods)):
        one = methods[name]
        shown = [interval(one[key]) for key in ("auc", f"versus_{ours}", "epr", "flip_rate")]
        table.add_row(f"{one['rank']['value'] or 0:g}", name, *shown)
    return table
