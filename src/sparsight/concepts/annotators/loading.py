"""Loads models of annotators, so that a missing one is one clear sentence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from sparsight.errors import SparsightError
from sparsight.images import to_pixels


def load_part(cls: Any, name_or_path: str | Path, what: str, **options: Any) -> Any:
    """`cls.from_pretrained(name_or_path)`; `what` names the part in the error, such as "SAM segmenter".

    Raises `SparsightError` where neither a folder nor the Hub gives it, or its files are damaged.
    """
    try:
        with quiet():
            return cls.from_pretrained(str(name_or_path), **options)
    except Exception as error:  # a missing file, no network, a broken file: transformers has an error class for each
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        if Path(name_or_path).is_absolute() and not Path(name_or_path).exists():
            reason = "there is no such folder"
        raise SparsightError(
            f"the {what} cannot be loaded from {str(name_or_path)!r} (a local folder or a Hub id): {reason}"
        ) from error


def load_model(cls: Any, name_or_path: str | Path, what: str, device: str | torch.device = "cpu") -> Any:
    """A model as `load_part` loads it: safetensors alone, fp32, in evaluation mode, on `device`."""
    model = load_part(cls, name_or_path, what, dtype=torch.float32, use_safetensors=True)
    return model.eval().requires_grad_(False).to(device)


@contextmanager
def quiet() -> Iterator[None]:
    """Without progress bars and log lines of transformers: it says of every image processor that torchvision is missing."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def pictures(images: Tensor) -> list[Image.Image]:
    """Images (B, 3, H, W) in [-1, 1] as the pictures that processors of transformers take."""
    if images.ndim != 4 or images.shape[1] != 3:
        raise SparsightError(f"an annotator needs images (B, 3, H, W) in [-1, 1], not {tuple(images.shape)}")
    return [Image.fromarray(pixels) for pixels in to_pixels(images)]
