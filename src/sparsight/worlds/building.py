"""How a world is built: named parts in order, each done once, each going on where it was killed."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from sparsight.errors import unknown
from sparsight.pipeline.reporter import Reporter
from sparsight.worlds.training import Progress

Part = Callable[[Progress], None]


def build_parts(parts: Mapping[str, Part], work: Path, report: Reporter, only: Sequence[str] = ()) -> None:
    """Build every part, or `only` some; a file in `work` marks each that is whole. Unknown names are refused first."""
    for name in only:
        if name not in parts:
            raise unknown("part", name, parts)
    work.mkdir(parents=True, exist_ok=True)
    for name in only or parts:
        marker = work / f"{name}.done"
        if marker.exists() and not only:
            report.finish(name, 0.0, cached=True)
            continue
        report.start(name)
        began = time.monotonic()
        parts[name](lambda step, steps, loss: report.update(step, steps, f"loss {loss:.3f}"))
        marker.write_text(f"{time.monotonic() - began:.0f} s on {torch.get_num_threads()} threads\n")
        report.finish(name, time.monotonic() - began, cached=False)
