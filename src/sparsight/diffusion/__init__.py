"""Diffusion models as sparsight sees them: one adapter, named sites, one loop."""

from sparsight.diffusion.model import DiffusionModel, SiteInfo
from sparsight.diffusion.sampling import Loop, Moment, invert, sample, walk
from sparsight.diffusion.schedule import CLEAN, Prediction, Schedule
from sparsight.diffusion.sites import EditRecord, Intervention, Step, Tape

__all__ = [
    "CLEAN", "DiffusionModel", "EditRecord", "Intervention", "Loop", "Moment", "Prediction", "Schedule",
    "SiteInfo", "Step", "Tape", "invert", "sample", "walk",
]  # fmt: skip
