"""What the training of every world's judges shares: precision, memory layout, averaging, and how a judge is saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sparsight.files import write_json
from sparsight.worlds.training import Training


def fast(enabled: bool = True) -> torch.autocast:
    """Mixed precision, which halves the time on processors that know bfloat16."""
    return torch.autocast("cpu", torch.bfloat16, enabled=enabled)


def ready(model: Any) -> Any:
    """A new or a loaded (and so frozen) model, all of it trainable, in the memory layout a CPU likes best."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.1  # transformers' MobileNetV2 has 0.997, and would remember the last batch alone
    return model.requires_grad_(True).to(memory_format=torch.channels_last)


def training_of(model: nn.Module, work: Path, steps: int, learning_rate: float, seed: int) -> Training:
    """The judges' way of training: a short memory for the average and, in short trainings, a short warm-up."""
    warmup = min(100, steps // 4 + 1)
    return Training(model, work, steps=steps, learning_rate=learning_rate, warmup=warmup, ema=0.99, seed=seed)


def half(model: nn.Module) -> dict[str, Tensor]:
    """The weights in half precision: judges need no more, and wheels should stay small."""
    return {key: value.half() if value.is_floating_point() else value for key, value in model.state_dict().items()}


def write_image_settings(folder: Path, processor: str) -> None:
    """Write `preprocessor_config.json`: 64 pixels, scaled to [-1, 1]."""
    write_json(Path(folder) / "preprocessor_config.json", {
        "image_processor_type": processor, "do_resize": True, "size": {"height": 64, "width": 64}, "resample": 3,
        "do_center_crop": False, "do_convert_rgb": True,
        "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True,
        "image_mean": [0.5] * 3, "image_std": [0.5] * 3,
    })  # fmt: skip
