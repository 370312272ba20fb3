"""Paired timings: the rivals take turns in every round, and only ratios within a round are compared."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


def rounds(rivals: Mapping[str, Callable[[], Any]], count: int) -> dict[str, list[float]]:
    """Seconds of wall time of each rival in each round, after one round to warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in rivals}
    for number in range(count + 1):
        for name, run in rivals.items():
            began = time.perf_counter()
            run()
            if number:
                seconds[name].append(time.perf_counter() - began)
    return seconds


def ratio(seconds: Mapping[str, list[float]], over: str, under: str) -> dict[str, float]:
    """Time of `over` / time of `under`: the median over rounds, and the lowest and highest round."""
    each = [a / b for a, b in zip(seconds[over], seconds[under], strict=True)]
    return {"median": statistics.median(each), "low": min(each), "high": max(each), "rounds": len(each)}


def say(result: Mapping[str, Any], path: Path | None) -> None:
    """Print every ratio; write the whole result as JSON if a path is given."""
    for name, value in result["ratios"].items():
        print(f"{name:58s} {value['median']:6.3f}  ({value['low']:.3f} ... {value['high']:.3f})")
    for name, value in result.get("facts", {}).items():
        print(f"{name:58s} {value}")
    if path is not None:
        path.write_text(json.dumps(result, indent=2) + "\n")
