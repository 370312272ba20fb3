"""The world `scenes` as a run sees it: pictures by number with captions and masks, a text-to-image model, annotators."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sparsight.errors import SparsightError, unknown
from sparsight.images import to_tensor
from sparsight.worlds.clip import Clip, load_clip
from sparsight.worlds.scenes.annotators import load_annotator
from sparsight.worlds.scenes.captions import prompt_of, unknown_words
from sparsight.worlds.scenes.render import render, segment
from sparsight.worlds.scenes.scene import BACKGROUNDS, KINDS, STYLES, Scene, sample_scene

SPLITS = {"train": 1, "held-out": 2, "harvest": 101, "dictionary": 102, "test": 103}
"""Seed of each stream of scenes. "train" made the world's models, "held-out" measured them; runs use the other three."""


class Scenes:
    """The scenes of one split by number, drawn when they are asked for."""

    def __init__(self, split: str) -> None:
        if split not in SPLITS:
            raise unknown("split", split, SPLITS)
        self.split, self.seed, self.name = split, SPLITS[split], f"scenes {split}"

    def __len__(self) -> int:
        return 1_000_000

    def scene(self, number: int) -> Scene:
        """The truth about one picture."""
        return sample_scene(self.seed, number)

    def batch(self, numbers: Sequence[int]) -> Tensor:
        """The pictures of these numbers, float (B, 3, 64, 64) in [-1, 1]."""
        return to_tensor(np.stack([render(self.scene(n)) for n in numbers]))

    def prompts(self, numbers: Sequence[int]) -> list[str]:
        """Their full captions: objects, background and style, never where anything is."""
        return [prompt_of(self.seed, n, self.scene(n)) for n in numbers]

    def segments(self, numbers: Sequence[int]) -> Tensor:
        """Whose each pixel is, int64 (B, 64, 64): 0 for the background, otherwise 1 + the kind's place in `KINDS`."""
        return torch.from_numpy(np.stack([segment(self.scene(n)) for n in numbers])).long()


class Captions:
    """The full captions of one split's scenes as a `PromptSource`."""

    def __init__(self, split: str) -> None:
        self.scenes, self.name = Scenes(split), f"captions of scenes {split}"

    def __len__(self) -> int:
        return len(self.scenes)

    def batch(self, numbers: Sequence[int]) -> list[str]:
        """The prompts of these numbers."""
        return self.scenes.prompts(numbers)


class ScenesWorld:
    """Everything that is known about scenes. Models are loaded when they are first asked for."""

    name = "scenes"
    kinds, backgrounds, styles = KINDS, BACKGROUNDS, STYLES

    def __init__(self, folder: Path | None = None) -> None:
        """`folder` holds the weights; those that ship with sparsight by default."""
        self.folder = folder or Path(str(files("sparsight") / "worlds" / "scenes" / "weights"))
        self._own = folder is None

    @property
    def model(self) -> str:
        """Where `DiffusionModel.load` finds the world's model."""
        return "worlds/scenes" if self._own else str(self._trained("model"))

    def source(self, split: str) -> Scenes:
        """The scenes of a split."""
        return Scenes(split)

    def unknown_words(self, prompt: str) -> list[str]:
        """The words of a prompt that no caption holds."""
        return unknown_words(prompt)

    def pipeline(self) -> Any:
        """A new `StableDiffusionPipeline` of the world's model, with no progress bar."""
        from diffusers import StableDiffusionPipeline

        pipeline = StableDiffusionPipeline.from_pretrained(self._trained("model"), safety_checker=None)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    @cached_property
    def tagger(self) -> nn.Module:
        """Images to logits of 12 kinds and 4 backgrounds (`scenes.data.TAGS`)."""
        return load_annotator("tagger", self._trained("tagger"))

    @cached_property
    def style_classifier(self) -> nn.Module:
        """Images to logits of the five styles."""
        return load_annotator("styles", self._trained("styles"))

    @cached_property
    def segmenter(self) -> nn.Module:
        """Images to logits of background and kinds; read it with `scenes.annotators.segments` and `boxes`."""
        return load_annotator("segmenter", self._trained("segmenter"))

    @cached_property
    def clip(self) -> Clip:
        """The world's own CLIP."""
        return load_clip(self._trained("clip"))

    def _trained(self, part: str) -> Path:
        folder = self.folder / part
        if not folder.is_dir():
            raise SparsightError(
                f"the world 'scenes' has no trained {part} in {self.folder}: train its models with "
                "`sparsight world build scenes`"
            )
        return folder
