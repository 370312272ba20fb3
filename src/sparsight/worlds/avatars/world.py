"""The world `avatars` as a run sees it: images by number, labels, true counterfactuals, and judges."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from sparsight.concepts.concept import Concept
from sparsight.errors import SparsightError, unknown
from sparsight.images import to_tensor
from sparsight.worlds.avatars import judges
from sparsight.worlds.avatars.captions import TEXT_PAIRS
from sparsight.worlds.avatars.faces import ATTRIBUTES, Face, attributes, counterfactual, related, sample_face
from sparsight.worlds.avatars.render import render

SPLITS = {"train": 1, "held-out": 2, "harvest": 101, "validation": 102, "test": 103}
"""Seed of each stream of faces. "train" made the world's models, "held-out" measured them; runs use the other three."""


class Faces:
    """The faces of one split as numbered images, drawn when they are asked for."""

    def __init__(self, split: str) -> None:
        if split not in SPLITS:
            raise unknown("split", split, SPLITS)
        self.split, self.seed, self.name = split, SPLITS[split], f"avatars {split}"

    def __len__(self) -> int:
        return 1_000_000

    def face(self, number: int) -> Face:
        """The factors of one face."""
        return sample_face(self.seed, number)

    def batch(self, numbers: Sequence[int]) -> Tensor:
        """The images of these numbers, float (B, 3, 64, 64) in [-1, 1]."""
        return draw([self.face(n) for n in numbers])

    def labels(self, numbers: Sequence[int]) -> Tensor:
        """The truth, bool (B, attributes)."""
        return torch.tensor([list(attributes(self.face(n)).values()) for n in numbers])


def draw(faces: Sequence[Face]) -> Tensor:
    """Rendered faces, float (B, 3, 64, 64) in [-1, 1]."""
    return to_tensor(np.stack([render(face) for face in faces]))


class AvatarsWorld:
    """Everything that is known about avatars. Judges are loaded when they are first asked for."""

    name = "avatars"
    model = "worlds/avatars"
    attributes = ATTRIBUTES

    @cached_property
    def folder(self) -> Path:
        """Where the world's weights are."""
        return Path(str(files("sparsight") / "worlds" / "avatars" / "weights"))

    @property
    def concepts(self) -> dict[str, Concept]:
        """One concept for each attribute, under the attribute's name."""
        return {name: Concept(name, *TEXT_PAIRS[name], attribute=name) for name in ATTRIBUTES}

    def source(self, split: str) -> Faces:
        """The images of a split."""
        return Faces(split)

    def related(self, attribute: str) -> tuple[str, ...]:
        """Attributes that `attribute` excludes, implies or hides: not damage when it changes."""
        return related(attribute)

    def eligible(self, split: str, attribute: str, count: int) -> list[int]:
        """The first `count` faces of a split that lack `attribute` and could have it by changing one factor alone."""
        source, found = Faces(split), []
        for number in range(len(source)):
            face = source.face(number)
            if not attributes(face)[attribute] and counterfactual(face, attribute, True) is not None:
                found.append(number)
                if len(found) == count:
                    return found
        raise SparsightError(f"fewer than {count} faces of split {split!r} can take on {attribute}")

    def counterfactuals(self, split: str, numbers: Sequence[int], attribute: str) -> Tensor:
        """The same faces with `attribute` switched on and nothing else changed, (B, 3, 64, 64)."""
        changed = [counterfactual(Faces(split).face(n), attribute, True) for n in numbers]
        if any(face is None for face in changed):
            raise SparsightError(f"some of these faces cannot take on {attribute} by changing one factor")
        return draw([face for face in changed if face is not None])

    @cached_property
    def classifiers(self) -> dict[str, nn.Module]:
        """Four multi-label classifiers: images (B, 3, 64, 64) to logits (B, attributes)."""
        return judges.load_classifiers(self.folder / "classifiers")

    @cached_property
    def clip(self) -> judges.Clip:
        """The world's own CLIP."""
        return judges.load_clip(self.folder / "clip")

    @cached_property
    def identity(self) -> nn.Module:
        """Images to unit identity embeddings."""
        return judges.load_identity(self.folder / "identity")

    @cached_property
    def validity(self) -> Validity:
        """The test of whether an image is still a face of this world."""
        return Validity.load(self)


class Validity:
    """A face is valid if each part of it looks like the same part of some face in the world.

    Features of the VGG classifier on a 4x4 grid of cells. Each cell is compared with that cell in 1,024 renders; the
    distance to the nearest is divided by the cell's own 99th percentile among other renders. An image is valid if
    its worst cell is no worse than that of 99 % of other renders. Comparing cell by cell lets the factors combine
    freely, and an upside-down face, or one with two mouths, fails.
    """

    BANK, CALIBRATION, GRID, START = 1024, 512, 4, 100_000

    def __init__(self, vgg: nn.Module, bank: Tensor, scale: Tensor, cells: Tensor, limit: float) -> None:
        """`bank` (cells, renders, channels) is already divided by `scale` (channels,); `cells` (cells,) are percentiles."""
        self.vgg, self.bank, self.scale, self.cells, self.limit = vgg, bank, scale, cells, limit

    @classmethod
    def build(cls, vgg: nn.Module) -> Validity:
        """Measure the bank and the limits on held-out renders."""
        source, stop = Faces("held-out"), cls.START + cls.BANK + cls.CALIBRATION
        raw = torch.cat([cls._features(vgg, source.batch(range(s, s + 64))) for s in range(cls.START, stop, 64)], dim=1)
        scale = raw.flatten(0, 1).std(0).clamp_min(1e-6)
        found = cls(vgg, raw[:, : cls.BANK] / scale, scale, torch.ones(len(raw)), 1.0)
        nearest = found._nearest(raw[:, cls.BANK :] / scale)
        found.cells = nearest.quantile(0.99, dim=1)
        found.limit = float((nearest / found.cells[:, None]).amax(0).quantile(0.99))
        return found

    @classmethod
    def load(cls, world: AvatarsWorld) -> Validity:
        """Read the bank that ships with the world."""
        from safetensors.torch import load_file

        t = load_file(world.folder / "validity.safetensors")
        return cls(world.classifiers["vgg"], t["bank"].float(), t["scale"], t["cells"], float(t["limit"]))

    def save(self, folder: Path) -> None:
        """Write `validity.safetensors`."""
        from safetensors.torch import save_file

        tensors = {
            "bank": self.bank.half(),
            "scale": self.scale,
            "cells": self.cells,
            "limit": torch.tensor(self.limit),
        }
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "validity.safetensors")

    def __call__(self, images: Tensor) -> Tensor:
        """Whether each image (B, 3, 64, 64) is a valid face: bool (B,)."""
        nearest = self._nearest(self._features(self.vgg, images) / self.scale)
        return (nearest / self.cells[:, None]).amax(0) <= self.limit

    def _nearest(self, features: Tensor) -> Tensor:
        """Distance of each cell of each image to the nearest such cell of the bank: (cells, B)."""
        return torch.cdist(features, self.bank).amin(2)

    @classmethod
    @torch.no_grad()
    def _features(cls, vgg: nn.Module, images: Tensor) -> Tensor:
        maps = vgg.features(images.clamp(-1, 1))[3]  # type: ignore[operator]
        cells = torch.nn.functional.adaptive_avg_pool2d(maps, cls.GRID)
        return cells.flatten(2).permute(2, 0, 1)  # (cells, B, channels)
