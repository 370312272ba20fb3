"""Steering: interventions on a site, the controls beside them, and the choice of their strength."""

from sparsight.steering.comparisons import CONTROLS, controls, mean_difference, mean_shift, to_size
from sparsight.steering.interventions import (
    Direction,
    LatentSteering,
    LinearMap,
    Steering,
    Window,
    casl_steer,
    steer_together,
)  # fmt: skip
from sparsight.steering.strength import Choice, Trial, choose_alpha

__all__ = [
    "CONTROLS", "Choice", "Direction", "LatentSteering", "LinearMap", "Steering", "Trial", "Window",
    "casl_steer", "choose_alpha", "controls", "mean_difference", "mean_shift", "steer_together",
    "to_size",
]  # fmt: skip
