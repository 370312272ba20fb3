"""The scenes' annotators, all in transformers' own classes: a tagger, a segmenter, a classifier of styles.

All take images (B, 3, 64, 64) in [-1, 1] and load from a folder or the Hub.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import (
    ResNetConfig,
    ResNetForImageClassification,
    SegformerConfig,
    SegformerForSemanticSegmentation,
)

from sparsight.errors import unknown
from sparsight.worlds.clip import frozen, judge_file
from sparsight.worlds.scenes.data import TAGS
from sparsight.worlds.scenes.scene import KINDS, STYLES

SEGMENTS = ("background", *KINDS)


def _labels(names: Sequence[str]) -> dict[str, Any]:
    return {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}


def _tagger() -> nn.Module:
    # Three stages, so that the last map of a 64-pixel image is still 4x4.
    return ResNetForImageClassification(ResNetConfig(
        embedding_size=32, hidden_sizes=[32, 64, 128], depths=[1, 2, 2], layer_type="basic",
        problem_type="multi_label_classification", **_labels(TAGS),
    ))  # fmt: skip


def _styles() -> nn.Module:
    return ResNetForImageClassification(ResNetConfig(
        embedding_size=16, hidden_sizes=[16, 32, 64], depths=[1, 1, 1], layer_type="basic", **_labels(STYLES),
    ))  # fmt: skip


def _segmenter() -> nn.Module:
    # Strides of 2 from the start: the usual 4 would leave an object of 20 pixels five places across.
    return SegformerForSemanticSegmentation(SegformerConfig(
        num_encoder_blocks=3, depths=[1, 2, 2], sr_ratios=[8, 4, 1], hidden_sizes=[32, 64, 128],
        patch_sizes=[5, 3, 3], strides=[2, 2, 2], num_attention_heads=[1, 2, 4], mlp_ratios=[3, 3, 3],
        decoder_hidden_size=64, classifier_dropout_prob=0.0, drop_path_rate=0.0, **_labels(SEGMENTS),
    ))  # fmt: skip


BUILDERS: dict[str, Callable[[], nn.Module]] = {"tagger": _tagger, "styles": _styles, "segmenter": _segmenter}
KINDS_OF_ANNOTATOR = tuple(BUILDERS)


def build_annotator(kind: str, seed: int = 0) -> nn.Module:
    """An untrained annotator: one of "tagger", "styles" and "segmenter"."""
    if kind not in BUILDERS:
        raise unknown("annotator", kind, BUILDERS)
    torch.manual_seed(seed)
    return BUILDERS[kind]()


def load_annotator(kind: str, folder: str | Path) -> nn.Module:
    """A saved annotator, frozen. Raises SparsightError where there is none."""
    if kind not in BUILDERS:
        raise unknown("annotator", kind, BUILDERS)
    judge_file(folder, "model.safetensors")
    model: Any = SegformerForSemanticSegmentation if kind == "segmenter" else ResNetForImageClassification
    return frozen(model.from_pretrained(str(folder), dtype=torch.float32))


def segment_logits(model: nn.Module, images: Tensor) -> Tensor:
    """Logits of every pixel (B, 13, 64, 64), background first: the model's own are half as fine."""
    coarse = model(pixel_values=images).logits
    return F.interpolate(coarse, size=images.shape[-2:], mode="bilinear", align_corners=False)


@torch.no_grad()
def segments(model: nn.Module, images: Tensor, batch: int = 64) -> Tensor:
    """Whose each pixel is, int64 (B, 64, 64): 0 for the background, otherwise 1 + the kind's place in `KINDS`."""
    return torch.cat([segment_logits(model, part).argmax(1) for part in images.split(batch)])


def boxes(found: Tensor, smallest: int = 12) -> list[dict[str, tuple[int, int, int, int]]]:
    """Boxes (left, top, right, bottom; right and bottom are outside) of the kinds in segments (B, 64, 64).

    A kind of fewer than `smallest` pixels counts as not there.
    """
    return [{kind: _box(one == i) for i, kind in enumerate(KINDS, 1) if (one == i).sum() >= smallest} for one in found]


def _box(mask: Tensor) -> tuple[int, int, int, int]:
    rows, columns = torch.where(mask)
    return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1
