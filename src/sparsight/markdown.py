"""Figures and tables in Markdown, for docs/results."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sparsight.files import atomic, write_json


def write_tables(out: Path, found: Any, text: str) -> None:
    """Write `found` to `out`.json and the tables to `out`.tables.md, each whole or not at all."""
    write_json(out.with_suffix(".json"), found)
    with atomic(out.with_suffix(".tables.md")) as temporary:
        temporary.write_text(text, "utf-8")


def interval(figure: Mapping[str, Any] | None, digits: int = 2) -> str:
    """A figure {"value", "low", "high"} with its interval, as far as it has one; a dash where there is no figure."""
    if not figure or figure["value"] is None:
        return "-"
    if figure["low"] is None:
        return f"{figure['value']:.{digits}f}"
    return f"{figure['value']:.{digits}f} [{figure['low']:.{digits}f}, {figure['high']:.{digits}f}]"


def plain(value: float | None, digits: int = 2) -> str:
    """A number without an interval; a dash for none and for what is not finite."""
    return "-" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table."""
    return "\n".join("| " + " | ".join(line) + " |" for line in (header, ["---"] * len(header), *rows))
