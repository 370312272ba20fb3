"""Rendered scenes as training data: pixels and segments, made in seconds and kept in memory as bytes."""

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
from sparsight.worlds.scenes.render import render_with_segments
from sparsight.worlds.scenes.scene import BACKGROUNDS, KINDS, SIZE, STYLES, Scene, sample_scene


@dataclass(frozen=True)
class SceneData:
    """Scenes with their pixels, uint8 (N, 64, 64, 3), and whose each pixel is, uint8 (N, 64, 64).

    The pixels may be a rendering or any likeness of one.
    """

    scenes: tuple[Scene, ...]
    pixels: np.ndarray
    segments: np.ndarray

    def __post_init__(self) -> None:
        if not len(self.scenes) == len(self.pixels) == len(self.segments):
            raise SparsightError(
                f"{len(self.scenes)} scenes do not match {len(self.pixels)} images and {len(self.segments)} segmentations"
            )

    def __len__(self) -> int:
        return len(self.scenes)

    def images(self, chosen: Tensor | slice = slice(None)) -> Tensor:
        """The chosen images, float (B, 3, 64, 64) in [-1, 1]."""
        return to_tensor(self.pixels[chosen if isinstance(chosen, slice) else chosen.numpy()])

    def tags(self) -> Tensor:
        """Which kinds and which background each scene has: float (N, 16) of zeros and ones, in `TAGS` order."""
        return torch.tensor([[float(tag in tags_of(scene)) for tag in TAGS] for scene in self.scenes])

    def styles(self) -> Tensor:
        """The place of each scene's style in `STYLES`, int64 (N,)."""
        return torch.tensor([STYLES.index(scene.style) for scene in self.scenes])

    def join(self, other: SceneData) -> SceneData:
        """These scenes and then those of `other`."""
        return SceneData(
            self.scenes + other.scenes,
            np.concatenate([self.pixels, other.pixels]),
            np.concatenate([self.segments, other.segments]),
        )

    def likeness(self, transform: Callable[[Tensor], Tensor], count: int, start: int = 0, batch: int = 64) -> SceneData:
        """Scenes `start` to `start + count` as `transform` redraws them, e.g. an autoencoder's round trip."""
        stop = min(start + count, len(self))
        spans = [slice(i, min(i + batch, stop)) for i in range(start, stop, batch)]
        with torch.inference_mode():
            redrawn = np.concatenate([to_pixels(transform(self.images(span))) for span in spans])
        return SceneData(self.scenes[start:stop], redrawn, self.segments[start:stop])


TAGS = (*KINDS, *BACKGROUNDS)


def tags_of(scene: Scene) -> set[str]:
    """The nouns that are true of a scene: its kinds and its background."""
    return {thing.kind for thing in scene.things} | {scene.background}


def render_scenes(
    seed: int, count: int, cache: Path | None = None, progress: Callable[[int, int], None] | None = None
) -> SceneData:
    """Scenes 0 to `count` of the stream `seed`; pixels are read from the file `cache` where it has enough of them."""
    scenes = tuple(sample_scene(seed, index) for index in range(count))
    if cache is not None and cache.exists():
        kept = np.load(cache, mmap_mode="r", allow_pickle=False)
        if len(kept) >= count:
            return SceneData(scenes, np.asarray(kept[:count, ..., :3]), np.asarray(kept[:count, ..., 3]))
    drawn = np.empty((count, SIZE, SIZE, 4), dtype=np.uint8)
    for index, scene in enumerate(scenes):
        drawn[index, ..., :3], drawn[index, ..., 3] = render_with_segments(scene)
        if progress is not None:
            progress(index + 1, count)
    if cache is not None:
        with atomic(cache) as temporary, temporary.open("wb") as file:
            np.save(file, drawn)
    return SceneData(scenes, drawn[..., :3], drawn[..., 3])
