"""Train the judges of the avatars world: classifiers and the identity embedder. CLIP's turn is in judge_clip.py.

Every function trains for a number of steps, never of seconds, so that the same seed gives the same judge.
A killed training goes on from the checkpoint in its `work` folder; the finished judge is written to `out`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparsight.errors import SparsightError, unknown
from sparsight.worlds.augment import adversarial, augment
from sparsight.worlds.avatars.data import FaceData
from sparsight.worlds.avatars.faces import Face
from sparsight.worlds.avatars.judge_models import KINDS, ConvNet, Logits, build_classifier, build_identity
from sparsight.worlds.judging import fast, half, ready, training_of, write_image_settings
from sparsight.worlds.training import Progress

ADVERSARIAL_SHARE = 0.25  # of the batches
# About what each of the shipped judges took.
STEPS = {"resnet": 900, "vgg": 900, "vit": 1000, "mobilenetv2": 2000, "clip": 600, "identity": 500}


class Mixture:
    """Several sets of faces drawn from together: renderings, and likenesses of them by other models."""

    def __init__(self, sources: Sequence[tuple[FaceData, float]]) -> None:
        """Take pairs of a set and its share of every batch; the shares need not add up to one."""
        if not sources or not all(len(data) and share > 0 for data, share in sources):
            raise SparsightError("every source of training images needs at least one image and a share above zero")
        self._data = [data for data, _ in sources]
        total = sum(share for _, share in sources)
        self._shares = [share / total for _, share in sources]
        joined = FaceData(self.faces, self._data[0].pixels[:1].repeat(len(self.faces), 0)[:, :1, :1])
        self.labels, self.identities = joined.labels(), joined.identities()

    @property
    def faces(self) -> tuple[Face, ...]:
        """The faces of all sources, in order; `batch` gives positions in it."""
        return tuple(face for data in self._data for face in data.faces)

    def batch(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """About `count` images (B, 3, 64, 64) and their positions (B,), each source by its share, in mixed order."""
        images, positions, before = [], [], 0
        for data, share in zip(self._data, self._shares, strict=True):
            chosen = torch.randint(len(data), (max(1, round(count * share)),), generator=generator)
            images.append(data.images(chosen))
            positions.append(chosen + before)
            before += len(data)
        order = torch.randperm(sum(map(len, positions)), generator=generator)
        return torch.cat(images)[order], torch.cat(positions)[order]


def harden(images: Tensor, loss_of: Callable[[Tensor], Tensor], generator: torch.Generator) -> Tensor:
    """Augmented images, in some batches moved to where they are hardest nearby."""
    images = augment(images, generator)
    if torch.rand((), generator=generator) < ADVERSARIAL_SHARE:
        images = adversarial(images, loss_of, generator)
    return images


def train_classifier(
    kind: str, data: Mixture, out: Path, work: Path, *, steps: int, batch: int = 128, learning_rate: float = 2e-3,
    start: nn.Module | None = None, seed: int = 0, progress: Progress | None = None,
) -> nn.Module:  # fmt: skip
    """Train a classifier of one of `KINDS` on 22 attributes at once; `start` is a classifier to go on from.

    Returns the averaged model, which is also saved (fp16) to `out`. Raises SparsightError for an unknown kind.
    """
    if kind not in KINDS:
        raise unknown("kind of classifier", kind, KINDS)
    model = ready(start or build_classifier(kind, seed))

    def loss_of(generator: torch.Generator) -> Tensor:
        images, positions = data.batch(batch, generator)
        truth = data.labels[positions]

        def loss(given: Tensor) -> Tensor:
            with fast(enabled=kind != "mobilenetv2"):  # convolutions one channel deep gain nothing by it
                logits = model(given)
            return F.binary_cross_entropy_with_logits(logits.float(), truth)

        return loss(harden(images, loss, generator))

    training = training_of(model, work, steps, learning_rate, seed)
    training.run(loss_of, progress)
    save_judge(training.averaged, out)
    return training.averaged


class _Classes(nn.Module):
    """The embedder with one prototype for each person: what the margin softmax is taken over."""

    def __init__(self, embedder: ConvNet, count: int) -> None:
        super().__init__()
        self.embedder = embedder
        self.prototypes = nn.Parameter(torch.randn(count, embedder.config["outputs"]))

    def loss(self, images: Tensor, person: Tensor, margin: float = 0.2, scale: float = 16.0) -> Tensor:
        with fast():
            found = self.embedder(images)
        cosine = found.float() @ F.normalize(self.prototypes, dim=-1).T
        handicap = margin * F.one_hot(person, cosine.shape[1])
        return F.cross_entropy(scale * (cosine - handicap), person)


def train_identity(
    data: Mixture, out: Path, work: Path, *, steps: int, batch: int = 128, learning_rate: float = 2e-3,
    start: ConvNet | None = None, seed: int = 0, progress: Progress | None = None,
) -> ConvNet:  # fmt: skip
    """Train the identity embedder: a softmax over persons on the unit sphere, with a margin (CosFace's form).

    Returns the averaged embedder, which is also saved (fp16) to `out`.
    """
    torch.manual_seed(seed)
    embedder = ready(start or build_identity())
    model = _Classes(embedder, int(data.identities.max()) + 1)

    def loss_of(generator: torch.Generator) -> Tensor:
        images, positions = data.batch(batch, generator)
        person = data.identities[positions]
        return model.loss(harden(images, lambda given: model.loss(given, person), generator), person)

    training = training_of(model, work, steps, learning_rate, seed)
    training.run(loss_of, progress)
    assert isinstance(training.averaged, _Classes)
    averaged = training.averaged.embedder
    save_judge(averaged, out)
    return averaged


def save_judge(model: nn.Module, out: Path) -> None:
    """Write a judge in its own format, half precision: judges need no more, and wheels should stay small."""
    target = model.model if isinstance(model, Logits) else model
    save: Any = target.save_pretrained
    save(out, state_dict=half(target))
    write_image_settings(out, "ViTImageProcessor")
