"""What the emergence experiment asks of a kind of images: the model, its prompts, and judges of what is in a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from torch import Tensor

from sparsight.concepts import Annotator
from sparsight.prompts import PromptSource


class Domain(Protocol):
    """A text-to-image model with everything that its pictures are judged by.

    `kinds` are the objects that are read and moved, `backgrounds` other labels with a place, `styles` labels of whole
    images. `names` says in plain words what measures: "localiser", "clip", "style", "perceptual".
    """

    @property
    def model(self) -> str:
        """What `DiffusionModel.load` loads."""
        ...

    @property
    def kinds(self) -> Sequence[str]:
        """Objects."""
        ...

    @property
    def backgrounds(self) -> Sequence[str]:
        """Other labels with a place."""
        ...

    @property
    def styles(self) -> Sequence[str]:
        """Labels of whole images."""
        ...

    @property
    def names(self) -> Mapping[str, str]:
        """What measures."""
        ...

    @property
    def prompts(self) -> PromptSource:
        """Prompts for SAEs, dictionaries and readings."""
        ...

    @property
    def annotator(self) -> Annotator:
        """Says what is where."""
        ...

    def require(self) -> None:
        """Raise `SparsightError` for a judge that is known to be missing, before hours are spent."""
        ...

    def prompt_for(self, kind: str, number: int) -> str:
        """A prompt that names one object; `number` decides whatever else it says."""
        ...

    def plain_prompts(self, numbers: Sequence[int]) -> list[str]:
        """Prompts that name no style."""
        ...

    def localise(self, images: Tensor, kind: str) -> Tensor:
        """Where a kind is in images (n, 3, H, W): (n, H, W) >= 0, all 0 where it is not."""
        ...

    def similarity(self, images: Tensor, style: str) -> Tensor:
        """How near images are to a style's words, (n,)."""
        ...

    def recognised(self, images: Tensor, style: str) -> Tensor:
        """1 where an image is taken for one in this style, else 0: (n,)."""
        ...

    def distance(self, one: Tensor, other: Tensor) -> Tensor:
        """How different two images look, pair by pair: (n,)."""
        ...
