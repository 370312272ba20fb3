"""CLIP's text tower as word vectors: knows every word, and what it looks like rather than what it stands beside."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sparsight.concepts.annotators.clip_tagger import text_features
from sparsight.concepts.annotators.loading import load_model, load_part
from sparsight.errors import SparsightError


class ClipWords:
    """A `WordVectors` on a CLIP model of transformers (a folder or Hub id with its tokenizer): unit vectors.

    `template` is the sentence around a word. Every word that is not blank is known; vectors are kept once computed.
    """

    def __init__(
        self, name_or_path: str | Path, *, template: str = "a photo of a {}", device: str | torch.device = "cpu"
    ) -> None:
        from transformers import AutoTokenizer, CLIPModel

        self.model: Any = load_model(CLIPModel, name_or_path, "CLIP text tower", device)
        self.tokenizer: Any = load_part(AutoTokenizer, name_or_path, "tokenizer of the CLIP text tower")
        self.name, self.template = f"clip:{name_or_path}", template
        self.size = int(self.model.config.projection_dim)
        self._kept: dict[str, Tensor] = {}

    def known(self, word: str) -> bool:
        """See `WordVectors`."""
        return bool(word.strip())

    @torch.no_grad()
    def vectors(self, words: Sequence[str]) -> Tensor:
        """See `WordVectors`."""
        if not all(self.known(word) for word in words):
            raise SparsightError("a blank word has no vector")
        missing = [word for word in dict.fromkeys(words) if word not in self._kept]
        for start in range(0, len(missing), 256):
            some = missing[start : start + 256]
            tokens = self.tokenizer(
                [self.template.format(w) for w in some], padding=True, truncation=True, return_tensors="pt"
            )
            found = text_features(self.model, tokens.to(self.model.device)).cpu()
            self._kept |= dict(zip(some, found, strict=True))
        return torch.stack([self._kept[word] for word in words]) if words else torch.zeros(0, self.size)
