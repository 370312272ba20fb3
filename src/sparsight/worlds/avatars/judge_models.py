"""The judges' networks: three of transformers' own kinds, and two small ones of ours saved in the same format."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    MobileNetV2Config,
    MobileNetV2ForImageClassification,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)

from sparsight.files import atomic, read_json, write_json
from sparsight.worlds.avatars.faces import ATTRIBUTES

KINDS = ("resnet", "mobilenetv2", "vgg", "vit")


class ConvNet(nn.Module):
    """A plain stack in VGG's manner: 3x3 convolutions with batch norm, halving the map between stages.

    Maps images (B, 3, 64, 64) in [-1, 1] to (B, outputs): raw logits, or unit vectors where `unit` is set.
    """

    model_type = "sparsight-convnet"

    def __init__(self, widths: tuple[int, ...] = (16, 32, 64, 96, 128), hidden: int = 128,
                 outputs: int = len(ATTRIBUTES), unit: bool = False, image_size: int = 64) -> None:  # fmt: skip
        super().__init__()
        self.config: dict[str, Any] = {
            "widths": list(widths), "hidden": hidden, "outputs": outputs, "unit": unit, "image_size": image_size,
        }  # fmt: skip
        pairs = zip((3, *widths[:-1]), widths, strict=True)
        self.stages = nn.ModuleList(_stage(before, after) for before, after in pairs)
        side = image_size // 2 ** (len(widths) - 1)
        self.hidden = nn.Linear(widths[-1] * side * side, hidden)
        self.head = nn.Linear(hidden, outputs)

    def features(self, images: Tensor) -> list[Tensor]:
        """The map after each stage, (B, width, side, side), finest first; what a perceptual distance compares."""
        maps = [self.stages[0](images)]
        for stage in self.stages[1:]:
            maps.append(stage(F.max_pool2d(maps[-1], 2)))
        return maps

    def forward(self, images: Tensor) -> Tensor:
        """Logits or unit vectors, (B, outputs)."""
        found = self.head(F.relu(self.hidden(self.features(images)[-1].flatten(1))))
        return F.normalize(found.float(), dim=-1) if self.config["unit"] else found

    def save_pretrained(self, folder: Path, state_dict: dict[str, Tensor] | None = None) -> None:
        """Write config.json and model.safetensors, with `state_dict` in place of the model's own if given."""
        write_json(Path(folder) / "config.json", {"model_type": self.model_type, **self.config})
        with atomic(Path(folder) / "model.safetensors") as temporary:
            save_file(
                {k: v.contiguous() for k, v in (state_dict or self.state_dict()).items()}, temporary, {"format": "pt"}
            )

    @classmethod
    def from_pretrained(cls, folder: Path) -> ConvNet:
        """Read what `save_pretrained` wrote, as float32."""
        config = read_json(Path(folder) / "config.json")
        model = cls(**{key: value for key, value in config.items() if key != "model_type"})
        weights = load_file(Path(folder) / "model.safetensors")
        model.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in weights.items()})
        return model


def _stage(before: int, after: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU())


def _labels() -> dict[str, Any]:
    return {
        "id2label": dict(enumerate(ATTRIBUTES)),
        "label2id": {name: i for i, name in enumerate(ATTRIBUTES)},
        "problem_type": "multi_label_classification",
    }


def _resnet() -> nn.Module:
    # Three stages, so that the last map of a 64-pixel image is still 4x4.
    return ResNetForImageClassification(
        ResNetConfig(embedding_size=32, hidden_sizes=[32, 64, 128], depths=[1, 2, 2], layer_type="basic", **_labels())
    )


def _mobilenet() -> nn.Module:
    # The usual floor of 8 channels loses the mouth: Smiling then stays at 80 % whatever the training.
    return MobileNetV2ForImageClassification(
        MobileNetV2Config(
            image_size=64,
            depth_multiplier=0.35,
            min_depth=24,
            output_stride=16,
            expand_ratio=3,
            finegrained_output=True,
            classifier_dropout_prob=0.0,
            **_labels(),
        )
    )


def _vit() -> nn.Module:
    return ViTForImageClassification(
        ViTConfig(
            image_size=64,
            patch_size=16,
            hidden_size=128,
            num_hidden_layers=4,
            num_attention_heads=4,
            intermediate_size=384,
            **_labels(),
        )
    )


BUILDERS: dict[str, Callable[[], nn.Module]] = {
    "resnet": _resnet, "mobilenetv2": _mobilenet, "vgg": ConvNet, "vit": _vit,
}  # fmt: skip


def build_identity() -> ConvNet:
    """An untrained identity embedder: 128 numbers of unit length for each image."""
    return ConvNet(outputs=128, unit=True, hidden=192)


class Logits(nn.Module):
    """A transformers image classifier that returns its logits (B, 22) and nothing else."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Raw logits (B, 22) of images (B, 3, 64, 64) in [-1, 1]."""
        return self.model(pixel_values=images).logits


def build_classifier(kind: str, seed: int = 0) -> nn.Module:
    """An untrained classifier of one of `KINDS`, from images (B, 3, 64, 64) in [-1, 1] to logits (B, 22)."""
    torch.manual_seed(seed)
    model = BUILDERS[kind]()
    return model if isinstance(model, ConvNet) else Logits(model)
