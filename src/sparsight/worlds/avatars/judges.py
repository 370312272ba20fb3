"""Load the judges of a world: classifiers, an identity embedder and a CLIP, from a folder or the Hugging Face Hub.

All take float images (B, 3, H, W) in [-1, 1] and are differentiable with respect to them. Any CLIP in
transformers' format will do, OpenAI's included, and any transformers image classifier.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModelForImageClassification, AutoTokenizer, CLIPModel
from transformers.utils import logging

from sparsight.errors import SparsightError
from sparsight.worlds.avatars.judge_models import KINDS, ConvNet, Logits

__all__ = ["KINDS", "Clip", "ConvNet", "load_classifier", "load_classifiers", "load_clip", "load_identity"]


def _file(folder: str | Path, name: str) -> Path:
    """A file of a local folder, or of a Hub repository where there is no such folder."""
    local = Path(folder)
    if (local / name).is_file():
        return local / name
    if local.is_dir():
        raise SparsightError(f"{local} holds no {name}, so it is no saved judge")
    if local.is_absolute() or str(folder).count("/") != 1:
        raise SparsightError(f"the folder {local} does not exist")
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(str(folder), name))
    except Exception as error:
        raise SparsightError(f"{folder} is neither a folder nor a reachable model on the Hub: {error}") from error


def _config(folder: str | Path, name: str = "config.json") -> dict[str, Any]:
    return json.loads(_file(folder, name).read_text("utf-8"))


logging.disable_progress_bar()  # its bars for loading would cut through a run's own display


def _frozen(model: nn.Module) -> Any:
    return model.eval().requires_grad_(False)


def load_classifier(folder: str | Path) -> nn.Module:
    """A frozen classifier: images (B, 3, 64, 64) in [-1, 1] to raw logits (B, 22), `ATTRIBUTES` in order.

    The VGG-like one also has `features(images)`, its maps from fine to coarse. Raises SparsightError
    where `folder` is neither a saved classifier nor a model on the Hub.
    """
    if _config(folder).get("model_type") == ConvNet.model_type:
        return _frozen(_load_convnet(folder))
    return _frozen(Logits(AutoModelForImageClassification.from_pretrained(str(folder), dtype=torch.float32)))


def load_classifiers(folder: str | Path) -> dict[str, nn.Module]:
    """The classifiers of every kind in `KINDS` from the subfolders of a local folder, by name."""
    return {kind: load_classifier(Path(folder) / kind) for kind in KINDS}


def load_identity(folder: str | Path) -> nn.Module:
    """A frozen embedder: images (B, 3, 64, 64) in [-1, 1] to unit vectors (B, 128), near for the same person."""
    return _frozen(_load_convnet(folder))


def _load_convnet(folder: str | Path) -> ConvNet:
    _file(folder, "model.safetensors")
    return ConvNet.from_pretrained(_file(folder, "config.json").parent)


class Clip:
    """A frozen CLIP with its tokenizer; both embeddings are float32 (B, D) of unit length."""

    def __init__(self, model: Any, tokenizer: Any, mean: list[float], std: list[float]) -> None:
        self.model: Any = _frozen(model)
        self.tokenizer = tokenizer
        self.size: int = model.config.vision_config.image_size
        self._mean = torch.tensor(mean).view(1, 3, 1, 1)
        self._std = torch.tensor(std).view(1, 3, 1, 1)

    def to(self, device: str | torch.device) -> Clip:
        """Move the model to a device, in place."""
        self.model.to(device)
        return self

    def image(self, images: Tensor) -> Tensor:
        """Embed images (B, 3, H, W) in [-1, 1]; other sizes are resized, and gradients reach the images."""
        device = self.model.device
        images = images.to(device).float()
        if images.shape[-2:] != (self.size, self.size):
            size = (self.size, self.size)
            images = F.interpolate(images, size, mode="bicubic", align_corners=False, antialias=True).clamp(-1, 1)
        ready = ((images + 1) / 2 - self._mean.to(device)) / self._std.to(device)
        found = self.model.visual_projection(self.model.vision_model(pixel_values=ready).pooler_output)
        return F.normalize(found, dim=-1)

    @torch.no_grad()
    def text(self, texts: list[str]) -> Tensor:
        """Embed sentences, cut off where they are longer than the model's context."""
        longest = self.model.config.text_config.max_position_embeddings
        tokens = self.tokenizer(texts, padding=True, truncation=True, max_length=longest, return_tensors="pt")
        given = {key: tokens[key].to(self.model.device) for key in ("input_ids", "attention_mask")}
        return F.normalize(self.model.text_projection(self.model.text_model(**given).pooler_output), dim=-1)


def load_clip(folder: str | Path) -> Clip:
    """A CLIP from a folder or the Hub. Raises SparsightError where there is none."""
    processor = _config(folder, "preprocessor_config.json")
    if _config(folder).get("model_type") != "clip":
        raise SparsightError(f"{folder} holds no CLIP: its config.json names another kind of model")
    model = CLIPModel.from_pretrained(str(folder), dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    return Clip(model, tokenizer, processor["image_mean"], processor["image_std"])
