"""Prompts in: lists and text files, numbered like images so that a batch of them can be read at a time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from sparsight.errors import SparsightError
from sparsight.files import digest


class PromptSource(Protocol):
    """Numbered prompts that are read a batch at a time."""

    name: str

    def __len__(self) -> int:
        """How many prompts there are."""
        ...

    def batch(self, numbers: Sequence[int]) -> list[str]:
        """The prompts of these numbers."""
        ...


class Prompts:
    """Prompts from a list; prompt n keeps the number n. The empty prompt is allowed.

    `name` ends in a digest of the texts, so that a store of other prompts is not taken for this one. Raises
    `SparsightError` where there are none, or for what is no text.
    """

    def __init__(self, texts: Sequence[str], name: str = "prompts") -> None:
        self.texts = [texts] if isinstance(texts, str) else list(texts)
        if not self.texts:
            raise SparsightError(f"{name} holds no prompts: give at least one")
        for number, text in enumerate(self.texts):
            if not isinstance(text, str):
                raise SparsightError(f"prompt {number} of {name} must be a text, not {type(text).__name__}")
        self.name = f"{name} ({len(self.texts)} prompts, {digest(self.texts)})"

    @classmethod
    def read(cls, path: str | Path) -> Prompts:
        """From a UTF-8 text file with one prompt a line; blank lines are left out and not numbered.

        Raises `SparsightError` for a file that is missing, is no text, or holds no prompts.
        """
        try:
            lines = Path(path).read_text("utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
            raise SparsightError(f"cannot read prompts from {path}: {reason}") from error
        return cls([line.strip() for line in lines if line.strip()], Path(path).name)

    def __len__(self) -> int:
        return len(self.texts)

    def batch(self, numbers: Sequence[int]) -> list[str]:
        """The prompts of these numbers."""
        return [self.texts[number] for number in numbers]
