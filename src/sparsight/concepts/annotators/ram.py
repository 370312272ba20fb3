"""RAM and RAM++ (Zhang et al. 2023; Huang et al. 2023) as tagger, where the user has installed their module.

RAM is the tagger of Tinaz et al. 2025, but it is on no package registry and in no class of transformers. This adapter
calls the module `ram` of its authors' repository, xinyu1205/recognize-anything, if it is there. That module loads its
own checkpoint, which is a pickle: take it only from its authors.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sparsight.concepts.annotators.loading import pictures
from sparsight.errors import SparsightError, unknown

MODELS = ("ram", "ram_plus")


class Ram:
    """A `Tagger`. `checkpoint` is RAM's file of weights, `model` "ram" (Swin-L, the paper's) or "ram_plus"."""

    def __init__(
        self, checkpoint: str | Path, *, model: str = "ram", size: int = 384, device: str | torch.device = "cpu"
    ) -> None:
        if model not in MODELS:
            raise unknown("RAM model", model, MODELS)
        ram, models = _module()
        if not Path(checkpoint).is_file():
            raise SparsightError(f"RAM's weights {str(checkpoint)!r} are not there: get them as its repository says")
        self.transform: Any = ram.get_transform(image_size=size)
        built = getattr(models, model)(pretrained=str(checkpoint), image_size=size, vit="swin_l")
        self.model: Any = built.eval().to(device)
        self.device = device
        self.name = f"{model} {Path(checkpoint).name}"

    @torch.no_grad()
    def tags(self, images: Tensor, captions: Sequence[str] | None = None) -> list[list[str]]:
        """See `Tagger`. Captions are not read."""
        batch = torch.stack([self.transform(picture) for picture in pictures(images)])
        english, _ = self.model.generate_tag(batch.to(self.device))
        return [[tag.strip() for tag in line.split("|") if tag.strip()] for line in english]


def _module() -> tuple[Any, Any]:
    try:
        return import_module("ram"), import_module("ram.models")
    except ImportError as error:
        raise SparsightError(
            "RAM is on no package registry: install its module `ram` from github.com/xinyu1205/recognize-anything, "
            f"or tag with ClipTagger, Florence or CaptionTagger instead ({error})"
        ) from error
