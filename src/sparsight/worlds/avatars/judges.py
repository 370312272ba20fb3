"""Load the judges of a world: classifiers, an identity embedder and a CLIP, from a folder or the Hugging Face Hub.

All take float images (B, 3, H, W) in [-1, 1] and are differentiable with respect to them. Any CLIP in
transformers' format will do, OpenAI's included, and any transformers image classifier.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn
from transformers import AutoModelForImageClassification

from sparsight.worlds.avatars.judge_models import KINDS, ConvNet, Logits
from sparsight.worlds.clip import Clip, frozen, judge_file, load_clip, read_config

__all__ = ["KINDS", "Clip", "ConvNet", "load_classifier", "load_classifiers", "load_clip", "load_identity"]


def load_classifier(folder: str | Path) -> nn.Module:
    """A frozen classifier: images (B, 3, 64, 64) in [-1, 1] to raw logits (B, 22), `ATTRIBUTES` in order.

    The VGG-like one also has `features(images)`, its maps from fine to coarse. Raises SparsightError
    where `folder` is neither a saved classifier nor a model on the Hub.
    """
    if read_config(folder).get("model_type") == ConvNet.model_type:
        return frozen(_load_convnet(folder))
    return frozen(Logits(AutoModelForImageClassification.from_pretrained(str(folder), dtype=torch.float32)))


def load_classifiers(folder: str | Path) -> dict[str, nn.Module]:
    """The classifiers of every kind in `KINDS` from the subfolders of a local folder, by name."""
    return {kind: load_classifier(Path(folder) / kind) for kind in KINDS}


def load_identity(folder: str | Path) -> nn.Module:
    """A frozen embedder: images (B, 3, 64, 64) in [-1, 1] to unit vectors (B, 128), near for the same person."""
    return frozen(_load_convnet(folder))


def _load_convnet(folder: str | Path) -> ConvNet:
    judge_file(folder, "model.safetensors")
    return ConvNet.from_pretrained(judge_file(folder, "config.json").parent)
