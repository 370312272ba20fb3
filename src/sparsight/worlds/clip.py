"""A CLIP and what all saved judges share: reading them from a folder or the Hugging Face Hub.

Any CLIP in transformers' format will do, OpenAI's included.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoTokenizer, CLIPModel
from transformers.utils import logging

from sparsight.errors import SparsightError

logging.disable_progress_bar()  # its bars for loading would cut through a run's own display


def judge_file(folder: str | Path, name: str) -> Path:
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


def read_config(folder: str | Path, name: str = "config.json") -> dict[str, Any]:
    """A JSON file of a saved judge. Raises SparsightError where there is no such judge."""
    return json.loads(judge_file(folder, name).read_text("utf-8"))


def frozen(model: nn.Module) -> Any:
    """The model in evaluation mode, its weights constant."""
    return model.eval().requires_grad_(False)


class Clip:
    """A frozen CLIP with its tokenizer; both embeddings are float32 (B, D) of unit length."""

    def __init__(self, model: Any, tokenizer: Any, mean: list[float], std: list[float]) -> None:
        self.model: Any = frozen(model)
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
    processor = read_config(folder, "preprocessor_config.json")
    if read_config(folder).get("model_type") != "clip":
        raise SparsightError(f"{folder} holds no CLIP: its config.json names another kind of model")
    model = CLIPModel.from_pretrained(str(folder), dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    return Clip(model, tokenizer, processor["image_mean"], processor["image_std"])


def clip_loss(image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
    """CLIP's symmetric loss between unit embeddings (B, D) of images and of their captions."""
    truth = torch.arange(len(image))
    scores = scale * image @ text.T
    return (F.cross_entropy(scores, truth) + F.cross_entropy(scores.T, truth)) / 2
