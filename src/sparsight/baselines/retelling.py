"""Prompts of an edit: the prompt of the image with the concept's words changed, and which of their tokens belong together."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from difflib import SequenceMatcher
from typing import Any

import torch
from torch import Tensor

from sparsight.concepts.concept import Concept
from sparsight.diffusion.conditioning import Conditioning, limit
from sparsight.diffusion.model import DiffusionModel
from sparsight.errors import SparsightError


def words_of(concept: Concept, strength: float) -> tuple[str, str]:
    """(what the prompt says, what it shall say): source and target, the other way round at a negative strength."""
    return (concept.source, concept.target) if strength >= 0 else (concept.target, concept.source)


def wordless(concept: Concept) -> str | None:
    """Why an edit by words cannot bring the concept; None where its two texts differ."""
    return "it edits by words, and no words tell this concept" if concept.source == concept.target else None


def retell(prompt: str, before: str, after: str) -> str:
    """The prompt with the first mention of `before`, as whole words, changed to `after`; letter case aside.

    With an empty `before` the prompt goes on with a comma and `after`; with an empty `after` both are taken away. Raises
    `SparsightError` for a prompt that does not say what is to be changed.
    """
    if not before:
        return f"{prompt}, {after}"
    start = r"(?<!\w)" if after else ", "
    found = re.search(rf"{start}{re.escape(before)}(?!\w)", prompt, flags=re.IGNORECASE)
    if found is None:
        raise SparsightError(f"the prompt {prompt!r} does not say {before!r}, so it cannot be edited to say {after!r}")
    return prompt[: found.start()] + after + prompt[found.end() :]


def retold(model: DiffusionModel, conditioning: Conditioning | None, concept: Concept, strength: float) -> Conditioning:
    """What the model is told when every prompt is retold; guidance and negative prompts stay.

    Raises `SparsightError` where no prompts are given, and for a prompt without the words to change.
    """
    if conditioning is None:
        raise SparsightError("this method edits a prompt: give the run its prompts, from encode_prompts([...])")
    told = [retell(prompt, *words_of(concept, strength)) for prompt in conditioning.prompts]
    target = model.encode_prompts(told, guidance=conditioning.guidance)
    return replace(target, negative=conditioning.negative)


def token_ids(model: Any, prompt: str) -> list[int]:
    """The tokens of a prompt as the text encoder reads them: start, words, end and padding, always as many."""
    most = limit(model.tokenizer, model.text_encoder)
    return model.tokenizer(prompt, padding="max_length", max_length=most, truncation=True)["input_ids"]


def aligned(source: Sequence[int], target: Sequence[int], swap: bool) -> tuple[Tensor, Tensor]:
    """How maps of the source's tokens become maps of the target's: A (L, L) fp32, and which target tokens are new (L,) bool.

    maps of the target = maps of the source @ A, for tokens that are not new. Tokens that both prompts share keep their
    maps. With `swap` (Prompt-to-Prompt's word swap) a stretch of tokens that replaces another shares out its maps
    evenly, so that no attention is lost; without (its refinement) the replacing tokens are new, as inserted ones always.
    """
    matrix, new = torch.zeros(len(source), len(target)), torch.ones(len(target), dtype=torch.bool)
    for what, a, b, c, d in SequenceMatcher(None, source, target, autojunk=False).get_opcodes():
        if what == "equal" or (what == "replace" and b - a == d - c and swap):
            matrix[list(range(a, b)), list(range(c, d))] = 1.0
        elif what == "replace" and swap:
            matrix[a:b, c:d] = 1.0 / (d - c)
        if what == "equal" or (what == "replace" and swap):
            new[c:d] = False
    return matrix, new


def mentions(model: Any, prompts: Sequence[str], text: str) -> Iterator[list[int]]:
    """For each prompt the places of the tokens of `text` in it, at its first mention; [] where it does not say it."""
    own = model.tokenizer(text, add_special_tokens=False)["input_ids"]
    for prompt in prompts:
        ids = token_ids(model, prompt)
        starts = [i for i in range(len(ids) - len(own) + 1) if own and ids[i : i + len(own)] == own]
        yield list(range(starts[0], starts[0] + len(own))) if starts else []
