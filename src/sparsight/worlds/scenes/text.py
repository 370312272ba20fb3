"""The words of the scenes in Stable Diffusion's format: a `CLIPTokenizer` and a small `CLIPTextModel`."""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from typing import Any, cast

import torch
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from sparsight.worlds.scenes.captions import vocabulary

CONTEXT, WIDTH = 24, 128
_START, _END = "<|startoftext|>", "<|endoftext|>"


def _alphabet() -> list[str]:
    """The 256 signs that byte-level BPE writes bytes with: printable bytes as themselves, the others shifted up."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return [chr(byte) for byte in plain] + [chr(256 + i) for i in range(len(others))]


def _pieces(word: str, ranks: dict[tuple[str, str], int]) -> list[str]:
    """`word` cut as BPE cuts it: its letters, joined by the merge of lowest rank as long as there is one."""
    pieces = [*word[:-1], f"{word[-1]}</w>"]
    while True:
        known = [(ranks[pair], i) for i, pair in enumerate(pairwise(pieces)) if pair in ranks]
        if not known:
            return pieces
        at = min(known)[1]
        pieces[at : at + 2] = ["".join(pieces[at : at + 2])]


@cache
def _merges() -> tuple[tuple[str, str], ...]:
    """Merges that make every word of the captions one token.

    A later merge never touches a word that the earlier ones have already made whole.
    """
    ranks: dict[tuple[str, str], int] = {}
    for word in vocabulary():
        while len(pieces := _pieces(word, ranks)) > 1:
            ranks[pieces[0], pieces[1]] = len(ranks)
    return tuple(ranks)


def build_tokenizer() -> CLIPTokenizer:
    """One token a word of the captions' language; other words are spelt out, letter by letter."""
    signs = _alphabet()
    tokens = [*signs, *(f"{sign}</w>" for sign in signs), *("".join(pair) for pair in _merges()), _START, _END]
    vocabulary_ = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    return CLIPTokenizer(
        vocab=vocabulary_, merges=cast(Any, list(_merges())), bos_token=_START, eos_token=_END, pad_token=_END, unk_token=_END,
        model_max_length=CONTEXT,
    )  # fmt: skip


def text_config(layers: int = 3) -> CLIPTextConfig:
    """Measures of a text tower: width 128, four heads, 24 tokens."""
    tokenizer = build_tokenizer()
    return CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=WIDTH, intermediate_size=3 * WIDTH, num_hidden_layers=layers,
        num_attention_heads=4, max_position_embeddings=CONTEXT, projection_dim=WIDTH,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip


def build_text_encoder() -> CLIPTextModel:
    """An untrained text encoder: token numbers (B, 24) to states (B, 24, 128)."""
    return CLIPTextModel(text_config())


def encode_words(tokenizer: CLIPTokenizer, texts: list[str]) -> torch.Tensor:
    """Token numbers (B, 24), cut and padded exactly as `StableDiffusionPipeline` does."""
    return tokenizer(texts, padding="max_length", truncation=True, max_length=CONTEXT, return_tensors="pt").input_ids
