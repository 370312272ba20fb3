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
    """A face is valid if something in the world looks like it.

    Features of the VGG classifier, averaged over positions and standardised; an image is valid if its nearest
    of 2,048 renders is no farther than the 99th percentile of such distances among other renders.
    """

    BANK, CALIBRATION = 2048, 512

    def __init__(self, vgg: nn.Module, bank: Tensor, mean: Tensor, std: Tensor, limit: float) -> None:
        self.vgg, self.bank, self.mean, self.std, self.limit = vgg, bank, mean, std, limit

    @classmethod
    def build(cls, vgg: nn.Module) -> Validity:
        """Measure the bank and the limit on held-out renders."""
        source = Faces("held-out")
        raw = torch.cat(
            [
                _features(vgg, source.batch(range(s, s + 64)))
                for s in range(100_000, 100_000 + cls.BANK + cls.CALIBRATION, 64)
            ]
        )
        mean, std = raw[: cls.BANK].mean(0), raw[: cls.BANK].std(0).clamp_min(1e-6)
        found = cls(vgg, (raw[: cls.BANK] - mean) / std, mean, std, 0.0)
        distances = torch.cdist((raw[cls.BANK :] - mean) / std, found.bank).min(1).values
        found.limit = float(distances.quantile(0.99))
        return found

    @classmethod
    def load(cls, world: AvatarsWorld) -> Validity:
        """Read the bank that ships with the world."""
        from safetensors.torch import load_file

        t = load_file(world.folder / "validity.safetensors")
        return cls(world.classifiers["vgg"], t["bank"].float(), t["mean"], t["std"], float(t["limit"]))

    def save(self, folder: Path) -> None:
        """Write `validity.safetensors`."""
        from safetensors.torch import save_file

        tensors = {"bank": self.bank.half(), "mean": self.mean, "std": self.std, "limit": torch.tensor(self.limit)}
        save_file(tensors, folder / "validity.safetensors")

    def __call__(self, images: Tensor) -> Tensor:
        """Whether each image (B, 3, 64, 64) is a valid face: bool (B,)."""
        features = (_features(self.vgg, images) - self.mean) / self.std
        return torch.cdist(features, self.bank).min(1).values <= self.limit


@torch.no_grad()
def _features(vgg: nn.Module, images: Tensor) -> Tensor:
    maps = vgg.features(images.clamp(-1, 1))  # type: ignore[operator]
    return torch.cat([m.mean((2, 3)) for m in maps], dim=1)
