"""Taggers without a detector's knowledge: CLIP over a vocabulary of nouns, and the caption itself."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sparsight.concepts.annotators.loading import load_model, load_part, pictures, quiet
from sparsight.concepts.nouns import KnownNouns
from sparsight.errors import SparsightError

# The 80 object names of COCO (Lin et al. 2014): a start for photographs; give your own nouns for anything else.
_COCO = (
    "person,bicycle,car,motorcycle,airplane,bus,train,truck,boat,traffic light,fire hydrant,stop sign,parking meter,"
    "bench,bird,cat,dog,horse,sheep,cow,elephant,bear,zebra,giraffe,backpack,umbrella,handbag,tie,suitcase,frisbee,"
    "skis,snowboard,sports ball,kite,baseball bat,baseball glove,skateboard,surfboard,tennis racket,bottle,wine glass,"
    "cup,fork,knife,spoon,bowl,banana,apple,sandwich,orange,broccoli,carrot,hot dog,pizza,donut,cake,chair,couch,"
    "potted plant,bed,dining table,toilet,tv,laptop,mouse,remote,keyboard,cell phone,microwave,oven,toaster,sink,"
    "refrigerator,book,clock,vase,scissors,teddy bear,hair drier,toothbrush"
)
COCO = tuple(_COCO.split(","))


class ClipTagger:
    """A `Tagger`: the nouns of a vocabulary whose sentence fits the image best.

    `name_or_path` is a CLIP model of transformers with tokenizer and image processor. An image's tags are the `most`
    nouns of the highest probability (softmax over the vocabulary at CLIP's own temperature), those below `least` left
    out. `template` is the sentence around a noun.
    """

    def __init__(
        self, name_or_path: str | Path, vocabulary: Sequence[str] = COCO, *, most: int = 5, least: float = 0.02,
        template: str = "a photo of a {}", device: str | torch.device = "cpu",
    ) -> None:  # fmt: skip
        from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel

        if not vocabulary or most < 1:
            raise SparsightError("the CLIP tagger needs a vocabulary, and at least 1 tag an image")
        self.model: Any = load_model(CLIPModel, name_or_path, "CLIP tagger", device)
        self.processor: Any = load_part(AutoImageProcessor, name_or_path, "image processor of the CLIP tagger")
        tokenizer = load_part(AutoTokenizer, name_or_path, "tokenizer of the CLIP tagger")
        self.vocabulary, self.most, self.least = list(vocabulary), most, least
        with torch.no_grad():
            tokens = tokenizer([template.format(noun) for noun in vocabulary], padding=True, return_tensors="pt")
            self._nouns = text_features(self.model, tokens.to(self.model.device))
        self.name = f"CLIP {name_or_path} over {len(self.vocabulary)} nouns"

    def tags(self, images: Tensor, captions: Sequence[str] | None = None) -> list[list[str]]:
        """See `Tagger`; best first. Captions are not read."""
        best = self.probabilities(images).topk(min(self.most, len(self.vocabulary)), dim=1)
        rows = zip(best.values.tolist(), best.indices.tolist(), strict=True)
        return [[self.vocabulary[i] for p, i in zip(*row, strict=True) if p >= self.least] for row in rows]

    @torch.no_grad()
    def probabilities(self, images: Tensor) -> Tensor:
        """The probability of each noun for each of the images (B, 3, H, W): (B, vocabulary)."""
        with quiet():
            pixels = self.processor(images=pictures(images), return_tensors="pt")["pixel_values"]
        pooled = self.model.vision_model(pixel_values=pixels.to(self.model.device)).pooler_output
        features = torch.nn.functional.normalize(self.model.visual_projection(pooled), dim=-1)
        return (self.model.logit_scale.exp() * features @ self._nouns.T).softmax(1).cpu()


class CaptionTagger:
    """A `Tagger` that believes the prompt: the nouns of a vocabulary that the caption names, whatever the image shows.

    The detector still has to find them. Useful where prompts are exact, or where there is no tagger at all.
    """

    def __init__(self, vocabulary: Sequence[str] = COCO) -> None:
        self.find = KnownNouns(vocabulary)
        self.name = f"nouns of the caption out of {len(self.find.labels)}"

    def tags(self, images: Tensor, captions: Sequence[str] | None = None) -> list[list[str]]:
        """See `Tagger`. Raises `SparsightError` without one caption an image."""
        if captions is None or len(captions) != len(images):
            raise SparsightError("the caption tagger needs one caption for each image")
        return [self.find(caption) for caption in captions]


def text_features(model: Any, tokens: Any) -> Tensor:
    """CLIP's embeddings of tokenised texts as unit vectors: (n, d)."""
    pooled = model.text_model(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]).pooler_output
    return torch.nn.functional.normalize(model.text_projection(pooled), dim=-1)
