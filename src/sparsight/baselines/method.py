"""What a method is: it is fitted to a concept and gives an editor, and an editor edits at a scalar strength.

A method is one file and one line in `registry.py`; docs/adding-a-method.md shows a whole one.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from sparsight.concepts.concept import Concept
from sparsight.diffusion.conditioning import Conditioning
from sparsight.diffusion.model import DiffusionModel
from sparsight.diffusion.sampling import Loop
from sparsight.diffusion.sites import Intervention

if TYPE_CHECKING:
    from sparsight.baselines.data import FitData

LABELS = "labels"
STORE = "store"
SAE = "sae"
IMAGES = "images"
PAIRS = "pairs"
TEXT = "text"
ALIGNMENTS = "alignments"
PERCEPTUAL = "perceptual"
PROMPTS = "prompts"
MASKS = "masks"
GRADIENTS = "gradients"
LATENTS = "latents"
TEXT_TO_IMAGE = "text_to_image"

NEEDS = {
    LABELS: "images labelled with the concept",
    STORE: "activations of the site, harvested with x_t",
    SAE: "a sparse autoencoder of the site",
    IMAGES: "training images",
    PAIRS: "images before and after the edit",
    TEXT: "a CLIP, and the concept's pair of texts",
    ALIGNMENTS: "CASL's alignment of the concept",
    PERCEPTUAL: "a perceptual distance",
    PROMPTS: "prompts without and with the concept",
    MASKS: "a region of each image",
    LATENTS: "latents that were found to stand for the concept",
    GRADIENTS: "gradients through the model",
    TEXT_TO_IMAGE: "a text-to-image model",
}
"""What a method may need, by name, in words that end the sentence "not applicable: it needs ..."."""


@dataclass(frozen=True)
class Plan:
    """The run that an editor is about to change: `noise` (B, c, h, w) is x_T, fp32; `beside` are the other editors in it.

    `unedited` {t: x_t} is the run's unedited path from where an editor first asked for it, shared by all of them. The rest
    is as `walk` takes it.
    """

    noise: Tensor
    loop: Loop
    conditioning: Conditioning | None = None
    generator: torch.Generator | None = None
    beside: tuple[Editor, ...] = ()
    unedited: dict[int, Tensor] = field(default_factory=dict)


class Editor:
    """Edits at any scalar strength. A method overrides what it needs of the four; each does nothing by default.

    At strength 0 none may change a single bit. Positive strengths bring the concept, negative ones take it away.
    `unit` says in words what strength 1 is; see `units.py` for the one that methods on a site share. `own` is the
    strength at which the editor is the paper's own setting, where the paper has one. `place` (h, w) bool is where in the
    state it edits, for editors that hold the rest.
    """

    unit: str = "one mean norm of the site's tokens"
    own: float | None = None
    place: Tensor | None = None

    def interventions(self, strength: float) -> Sequence[Intervention]:
        """Changes of a site's tokens, as the loop takes them. In an asymmetric loop they move x0 alone."""
        return ()

    def move(
        self, model: DiffusionModel, x_t: Tensor, t: int, strength: float, conditioning: Conditioning | None = None
    ) -> Tensor:
        """The state (B, c, h, w) that the step at `t` shall start from; `x_t` itself where nothing is moved.

        `conditioning` is what the model is told in this step, for a method that asks the model itself.
        """
        return x_t

    def told(self, conditioning: Conditioning | None, t: int, strength: float) -> Conditioning | None:
        """What a text-to-image model is told in the step at `t`."""
        return conditioning

    def context(self, model: DiffusionModel, strength: float, plan: Plan) -> AbstractContextManager[object]:
        """Surrounds the whole run: changed weights or attention, undone at its end whatever happens.

        `plan` is the run, for methods that take a second path beside it (a source prompt, say).
        """
        return nullcontext()


@dataclass(frozen=True)
class Method:
    """A way to edit a concept. Options are fields of the subclass, which is a frozen dataclass; the rest is said here.

    `needs` are names out of `NEEDS`: `fit` is given these and no other. `mode` is the stepping that the paper uses,
    for those who run a method as published; a comparison steps all methods alike.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    paper: ClassVar[str]
    needs: ClassVar[frozenset[str]] = frozenset()
    mode: ClassVar[str] = "plain"

    def fit(self, concept: Concept, data: FitData) -> Editor:
        """Learn from `data` how to edit `concept`. Raises `SparsightError` where the data do not suffice."""
        raise NotImplementedError

    def refusal(self, data: FitData) -> str | None:
        """Why the method cannot work on these data although it is given all it needs; None where it can."""
        return None

    def unfit(self, concept: Concept) -> str | None:
        """Why the method cannot edit this concept although it works on the data; None where it can."""
        return None
