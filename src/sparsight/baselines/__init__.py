"""Every method of editing behind one face: `fit(concept, data)` gives an editor, `edit_images` runs it at a strength."""

from sparsight.baselines.data import FitData
from sparsight.baselines.editing import Unedited, edit_images, edited_latents
from sparsight.baselines.method import NEEDS, Editor, Method, Plan
from sparsight.baselines.registry import METHODS, applicable, fit, method

__all__ = [
    "METHODS", "NEEDS", "Editor", "FitData", "Method", "Plan", "Unedited", "applicable", "edit_images", "edited_latents",
    "fit", "method",
]  # fmt: skip
