"""Steering: interventions on a site, the controls beside them, and the choice of their strength."""

from sparsight.steering.comparisons import CONTROLS, controls, mean_difference, mean_shift, to_size
from sparsight.steering.concept_controls import CONCEPT_CONTROLS, concept_controls, mean_change
from sparsight.steering.concept_edit import NORMALISERS, SCOPES, ConceptEdit, Together, edit_together
from sparsight.steering.interventions import (
    Direction,
    LatentSteering,
    LinearMap,
    Steering,
    Window,
    casl_steer,
    steer_together,
)  # fmt: skip
from sparsight.steering.spatial import SpatialEdit, spatial_edit, to_grid
from sparsight.steering.stages import STAGES, fraction_window, stage_window
from sparsight.steering.strength import Choice, Trial, choose_alpha
from sparsight.steering.style import GlobalEdit, global_edit

__all__ = [
    "CONCEPT_CONTROLS", "CONTROLS", "NORMALISERS", "SCOPES", "STAGES", "Choice", "ConceptEdit", "Direction",
    "GlobalEdit", "LatentSteering", "LinearMap", "SpatialEdit", "Steering", "Together", "Trial", "Window", "casl_steer",
    "choose_alpha", "concept_controls", "controls", "edit_together", "fraction_window", "global_edit", "mean_change",
    "mean_difference", "mean_shift", "spatial_edit", "stage_window", "steer_together", "to_grid", "to_size",
]  # fmt: skip
