"""Diffusion models as sparsight sees them: one adapter a family, named sites, one loop."""

from sparsight.diffusion.conditioning import Conditioning
from sparsight.diffusion.generate import generate
from sparsight.diffusion.model import DiffusionModel
from sparsight.diffusion.sampling import Loop, Moment, invert, sample, walk
from sparsight.diffusion.schedule import CLEAN, Prediction, Schedule
from sparsight.diffusion.sites import EditRecord, Intervention, Step, Tape
from sparsight.diffusion.survey import SiteInfo
from sparsight.diffusion.text_to_image import TextToImage

__all__ = [
    "CLEAN", "Conditioning", "DiffusionModel", "EditRecord", "Intervention", "Loop", "Moment", "Prediction", "Schedule",
    "SiteInfo", "Step", "Tape", "TextToImage", "generate", "invert", "sample", "walk",
]  # fmt: skip
