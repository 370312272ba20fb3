"""What an emergence run found, in a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

ROWS = (
    ("composition_iou", "composition, IoU", ("chance", "mean_map")),
    ("spatial_success", "object in its quadrant", ("chance",)),
    ("global_success", "nearer to the style's words", ("chance",)),
)


def print_emergence(metrics: Mapping[str, Any]) -> None:
    """The three figures by stage, beside what they must beat."""
    table = Table(title=f"emergence, seed {', '.join(map(str, metrics['seeds']))}, 95 % intervals")
    for column in ("", *metrics["composition_iou"], "must beat"):
        table.add_column(column)
    for key, title, others in ROWS:
        figures = metrics[key]
        against = [f"{name.replace('_', ' ')} {figures['early'][name]:.2f}" for name in others]
        table.add_row(title, *(_figure(one) for one in figures.values()), ", ".join(against))
    Console().print(table)


def _figure(found: Mapping[str, Any]) -> str:
    return f"{found['value']:.2f}\n[{found['low']:.2f}, {found['high']:.2f}]"
