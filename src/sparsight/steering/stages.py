"""Stages of a run as windows: the early, middle and final thirds of Tinaz et al. (arXiv 2504.15473, section 4.3)."""

from __future__ import annotations

import math

from sparsight.errors import SparsightError, unknown
from sparsight.steering.interventions import Window

STAGES = {"early": (0.6, 1.0), "middle": (0.2, 0.6), "final": (0.0, 0.2)}
"""From and to, in t from 0 (the image) to 1 (noise). Of 50 steps these are the first 20, the next 20 and the last 10."""


def stage_window(stage: str, total: int = 1000) -> Window:
    """The window of a stage by name, for a schedule of `total` timesteps. A boundary belongs to the noisier stage."""
    if stage not in STAGES:
        raise unknown("stage", stage, STAGES)
    return fraction_window(*STAGES[stage], total)


def fraction_window(low: float, high: float, total: int = 1000) -> Window:
    """The timesteps t with `low` <= t / `total` < `high`; 1 stands for the noisiest end.

    Raises `SparsightError` unless 0 <= low < high <= 1.
    """
    if not 0 <= low < high <= 1:
        raise SparsightError(
            f"a window runs from {low} to {high}, but must run upwards between 0 (image) and 1 (noise)"
        )
    return Window(math.ceil(round(low * total, 6)), math.ceil(round(high * total, 6)) - 1)
