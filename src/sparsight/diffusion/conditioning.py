"""What a text-to-image model is told: prompts as the denoiser reads them, and how strongly they guide."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from sparsight.errors import SparsightError


@dataclass(frozen=True)
class Conditioning:
    """Encoded prompts: `text` (P, L, D) and, where guidance is above 1, `negative` (P, L, D), empty or negative prompts.

    `guidance` g is meant as diffusers means it: eps = eps(negative) + g (eps(text) - eps(negative)). Ho and Salimans
    (arXiv 2207.12598) write 1 + w for g. At g = 1 the negative half drops out and is not run.
    """

    prompts: tuple[str, ...]
    text: Tensor
    negative: Tensor | None = None
    guidance: float = 1.0

    def __post_init__(self) -> None:
        require_guidance(self.guidance)
        if (self.negative is None) != (self.guidance == 1):
            raise SparsightError(
                f"a guidance of {self.guidance} needs negative prompts, and a guidance of 1 takes none"
            )

    def __len__(self) -> int:
        return len(self.text)

    def part(self, rows: slice) -> Conditioning:
        """The prompts of these states; one prompt that serves all states stays."""
        if len(self) == 1:
            return self
        negative = None if self.negative is None else self.negative[rows]
        return replace(self, prompts=self.prompts[rows], text=self.text[rows], negative=negative)

    def rows(self, count: int) -> Tensor:
        """What the denoiser reads for `count` states: (count, L, D), or (2 count, L, D) with the negative half first.

        One prompt serves any number of states; otherwise there must be one for each (`SparsightError`).
        """
        if len(self) not in (1, count):
            raise SparsightError(f"{len(self)} prompts are given for {count} states: give one prompt, or one for each")
        halves = [self.text] if self.negative is None else [self.negative, self.text]
        return torch.cat([half.expand(count, -1, -1) for half in halves])

    def conditional(self, count: int) -> Tensor:
        """Which rows of the pass see the prompt: (count,) or (2 count,) bool."""
        seen = torch.ones(count, dtype=torch.bool, device=self.text.device)
        return seen if self.negative is None else torch.cat([~seen, seen])

    def guide(self, output: Tensor) -> Tensor:
        """Both halves of the denoiser's output (2 B, c, h, w) to the guided one (B, c, h, w); one half stays as it is."""
        if self.negative is None:
            return output
        without, told = output.chunk(2)
        return without + self.guidance * (told - without)


def require_guidance(guidance: float) -> None:
    """Raise `SparsightError` for a guidance that is no number from 1 on."""
    if not (math.isfinite(guidance) and guidance >= 1):
        raise SparsightError(f"guidance is {guidance}, but must be at least 1 (1: the prompt alone, without guidance)")


def encode_prompts(
    tokenizer: Any, text_encoder: Any, prompts: str | Sequence[str], negative: str | Sequence[str], guidance: float
) -> Conditioning:
    """Prompts to `Conditioning`, as `StableDiffusionPipeline.encode_prompt` does it; see `TextToImage.encode_prompts`."""
    require_guidance(guidance)
    texts = texts_of(prompts, "prompts")
    against = texts_of(negative, "negative prompts")
    if len(against) not in (1, len(texts)):
        raise SparsightError(
            f"{len(against)} negative prompts are given for {len(texts)} prompts: give one, or as many"
        )
    text = _embed(tokenizer, text_encoder, texts)
    if guidance == 1:
        return Conditioning(tuple(texts), text)
    blank = _embed(tokenizer, text_encoder, against).expand(len(texts), -1, -1)
    return Conditioning(tuple(texts), text, blank, float(guidance))


def texts_of(prompts: str | Sequence[str], what: str) -> list[str]:
    """One text or a list of them as a list; anything else, and an empty list, is a clear error."""
    texts = [prompts] if isinstance(prompts, str) else list(prompts)
    if not texts:
        raise SparsightError(f"there are no {what}: give at least one (the empty text is allowed)")
    for text in texts:
        if not isinstance(text, str):
            raise SparsightError(f"{what} must be texts, not {type(text).__name__}")
    return texts


def limit(tokenizer: Any, text_encoder: Any) -> int:
    """How many tokens the text encoder reads, its start and end included (77 for CLIP)."""
    return min(tokenizer.model_max_length, text_encoder.config.max_position_embeddings)


def cut_off(tokenizer: Any, text_encoder: Any, text: str) -> str:
    """The end of a prompt that the text encoder does not read; "" if it reads everything."""
    ids, most = tokenizer(text, verbose=False).input_ids, limit(tokenizer, text_encoder)
    return tokenizer.decode(ids[most - 1 : -1]).strip() if len(ids) > most else ""


def unknown_words(tokenizer: Any, text: str) -> list[str]:
    """The words of a prompt, each once, for which the tokenizer has only its unknown token; [] if it has no such token."""
    if tokenizer.unk_token is None:
        return []
    words = dict.fromkeys(re.findall(r"\w+", text))
    return [word for word in words if tokenizer.unk_token in tokenizer.tokenize(word)]


@torch.no_grad()
def _embed(tokenizer: Any, text_encoder: Any, texts: list[str]) -> Tensor:
    _warn_of_length(tokenizer, text_encoder, texts)
    most = limit(tokenizer, text_encoder)
    read = tokenizer(texts, padding="max_length", max_length=most, truncation=True, return_tensors="pt")
    masked = getattr(text_encoder.config, "use_attention_mask", False)
    mask = read.attention_mask.to(text_encoder.device) if masked else None
    return text_encoder(read.input_ids.to(text_encoder.device), attention_mask=mask)[0]


def _warn_of_length(tokenizer: Any, text_encoder: Any, texts: list[str]) -> None:
    lost = {text: end for text in dict.fromkeys(texts) if (end := cut_off(tokenizer, text_encoder, text))}
    if lost:
        first, end = next(iter(lost.items()))
        more = f", and {len(lost) - 1} more prompts are cut too" if len(lost) > 1 else ""
        most = limit(tokenizer, text_encoder)
        warnings.warn(f"the prompt {first!r} is cut after {most} tokens: {end!r} is not read{more}", stacklevel=4)
