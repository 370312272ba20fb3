"""Rendered faces as training data: pixels, labels and identities, made once and kept in memory as bytes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sparsight.errors import SparsightError
from sparsight.files import atomic
from sparsight.images import to_pixels, to_tensor
from sparsight.worlds.avatars.faces import Face, attributes, sample_face
from sparsight.worlds.avatars.render import SIZE, render

IDENTITY_FACTORS = ("skin", "top", "hair", "hat_color", "facial_hair", "beard_color")


def identity(face: Face) -> tuple[str, ...]:
    """What makes two faces the same person: skin, top and its colour, facial hair and its colour, where visible."""
    covered = face.top in ("winterHat03", "turban")
    hair = "" if covered or face.top == "none" else face.hair
    beard = "" if face.facial_hair == "none" else face.beard_color
    return face.skin, face.top, hair, face.hat_color if covered else "", face.facial_hair, beard


@dataclass(frozen=True)
class FaceData:
    """Faces with their pixels, uint8 (N, 64, 64, 3). The pixels may be a rendering or any likeness of one."""

    faces: tuple[Face, ...]
    pixels: np.ndarray

    def __post_init__(self) -> None:
        if len(self.faces) != len(self.pixels):
            raise SparsightError(f"{len(self.faces)} faces do not match {len(self.pixels)} images")

    def __len__(self) -> int:
        return len(self.faces)

    def labels(self) -> Tensor:
        """Truth of every attribute, float (N, 22) of zeros and ones in `ATTRIBUTES` order."""
        return torch.tensor([list(attributes(face).values()) for face in self.faces], dtype=torch.float32)

    def identities(self) -> Tensor:
        """A class number for each face, int64 (N,); equal numbers are the same person."""
        numbers = {name: i for i, name in enumerate(sorted({identity(face) for face in self.faces}))}
        return torch.tensor([numbers[identity(face)] for face in self.faces])

    def images(self, chosen: Tensor | slice = slice(None)) -> Tensor:
        """The chosen images, float (B, 3, 64, 64) in [-1, 1]."""
        return to_tensor(self.pixels[chosen if isinstance(chosen, slice) else chosen.numpy()])

    def join(self, other: FaceData) -> FaceData:
        """These faces and then those of `other`."""
        return FaceData(self.faces + other.faces, np.concatenate([self.pixels, other.pixels]))

    def likeness(self, transform: Callable[[Tensor], Tensor], count: int, start: int = 0, batch: int = 64) -> FaceData:
        """Faces `start` to `start + count` as `transform` redraws them, e.g. an autoencoder's round trip."""
        stop = min(start + count, len(self))
        with torch.inference_mode():
            redrawn = [
                to_pixels(transform(self.images(slice(i, min(i + batch, stop))))) for i in range(start, stop, batch)
            ]
        return FaceData(self.faces[start:stop], np.concatenate(redrawn))


def render_faces(
    seed: int, count: int, cache: Path | None = None, progress: Callable[[int, int], None] | None = None
) -> FaceData:
    """Faces 0 to `count` of the stream `seed`; pixels are read from the file `cache` where it has enough of them."""
    faces = tuple(sample_face(seed, index) for index in range(count))
    if cache is not None and cache.exists():
        kept = np.load(cache, mmap_mode="r", allow_pickle=False)
        if len(kept) >= count:
            return FaceData(faces, np.asarray(kept[:count]))
    pixels = np.empty((count, SIZE, SIZE, 3), dtype=np.uint8)
    for index, face in enumerate(faces):
        pixels[index] = render(face)
        if progress is not None:
            progress(index + 1, count)
    if cache is not None:
        with atomic(cache) as temporary, temporary.open("wb") as file:
            np.save(file, pixels)
    return FaceData(faces, pixels)
