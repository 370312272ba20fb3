"""Ground truth as an annotator: the exact masks that a renderer knows."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from sparsight.concepts.annotation import Annotation, one_size
from sparsight.errors import SparsightError


class TrueMasks:
    """An `Annotator` that looks the objects of an image up by its number.

    `objects(number)` gives the annotations of that image; `Annotation.of(label, mask)` makes one from a mask. Images are
    only compared in their size.
    """

    def __init__(self, objects: Callable[[int], Sequence[Annotation]], name: str = "true masks") -> None:
        self.objects, self.name = objects, name

    def annotate(
        self, images: Tensor, captions: Sequence[str] | None = None, numbers: Sequence[int] | None = None
    ) -> list[list[Annotation]]:
        """See `Annotator`. Raises `SparsightError` without numbers, or where masks do not fit the images."""
        if numbers is None or len(numbers) != len(images):
            raise SparsightError("true masks are looked up by number, so every image needs its number")
        found = [list(self.objects(int(number))) for number in numbers]
        size, wanted = one_size(found), (images.shape[-2], images.shape[-1])
        if size not in (None, wanted):
            raise SparsightError(f"the true masks are {size[0]}x{size[1]}, but the images {wanted[0]}x{wanted[1]}")
        return found
