"""SwiftEdit (Nguyen et al., CVPR 2025, arXiv 2412.04301), in the list of methods so that its absence is said, not passed over.

It edits in one step by a trained inversion network, a one-step generator (SwiftBrush v2) and an image branch whose
attention is rescaled inside a mask of its own. All three are weights of its authors, about 24 GB in use, and no training
code is published: it cannot be rebuilt on another model, and what it edits is not the path of a sampler.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sparsight.baselines.data import FitData
from sparsight.baselines.method import TEXT_TO_IMAGE, Editor, Method
from sparsight.concepts.concept import Concept
from sparsight.errors import SparsightError

WANTED = ("its inversion network", "the SwiftBrush v2 generator", "its IP-Adapter branch")


@dataclass(frozen=True)
class SwiftEdit(Method):
    """Not applicable without `weights`, a folder of its authors' release; with it, run their program and compare images.

    Images that it made are compared by the metrics as any images are; this harness edits paths of one model.
    """

    name = "swiftedit"
    title = "SwiftEdit"
    paper = "arXiv 2412.04301"
    needs = frozenset({TEXT_TO_IMAGE})

    weights: str = ""

    def refusal(self, data: FitData) -> str | None:
        """Always a reason, and which."""
        if not self.weights or not Path(self.weights).is_dir():
            missing = f"{', '.join(WANTED[:-1])} and {WANTED[-1]}"
            return f"it needs its authors' weights ({missing}), which are not part of sparsight"
        return "it edits in one step of its own generator, not on a path of this model: run its authors' program"

    def fit(self, concept: Concept, data: FitData) -> Editor:
        """Raises `SparsightError`, saying why."""
        raise SparsightError(f"{self.title} is not applicable: {self.refusal(data)}")
