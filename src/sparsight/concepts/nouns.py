"""Which nouns a prompt names.

Tinaz et al. 2025 (4.2) read a mask for every noun of the prompt that has a word vector and that the annotators found.
Their noun extractor is not known. Where the labels are a known set, as in a world, finding those labels in the prompt
is exact; `ParsedNouns` takes a parser such as spaCy's for open language (the reading that the notes suggest, INFERRED).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

from sparsight.errors import SparsightError, unknown


class NounFinder(Protocol):
    """Names what a prompt names."""

    def __call__(self, prompt: str) -> list[str]:
        """The nouns of the prompt in the order of their first mention, each once."""
        ...


class KnownNouns:
    """A `NounFinder` for the labels of a known set; longer labels win ("hot dog" is no "dog").

    With `plurals` (default) "two cats" names the label "cat". Letter case and punctuation do not matter.
    """

    def __init__(self, labels: Iterable[str], plurals: bool = True) -> None:
        self.labels = list(dict.fromkeys(labels))
        forms = {form: label for label in self.labels for form in _forms(label, plurals)}
        self._forms = forms | {" ".join(words(label)): label for label in self.labels}
        self._longest = max((form.count(" ") + 1 for form in self._forms), default=0)

    def __call__(self, prompt: str) -> list[str]:
        """The labels that the prompt names, in order, each once."""
        return list(dict.fromkeys(self._walk(words(prompt))))

    def require(self, prompt: str) -> list[str]:
        """The same, but a prompt that names nothing known is a `SparsightError` that says what is known."""
        said = words(prompt)
        if not said:
            raise SparsightError("the prompt is empty, so it names nothing that could be found")
        return self(prompt) or _refuse(prompt, self.labels)

    def _walk(self, said: list[str]) -> Iterator[str]:
        at = 0
        while at < len(said):
            for length in range(min(self._longest, len(said) - at), 0, -1):
                label = self._forms.get(" ".join(said[at : at + length]))
                if label is not None:
                    yield label
                    at += length - 1
                    break
            at += 1


class ParsedNouns:
    """A `NounFinder` on a parser that you bring, such as `spacy.load("en_core_web_sm")`.

    `parser(prompt)` gives tokens with `pos_` and `lemma_`; those tagged NOUN or PROPN count, by their lemma.
    """

    def __init__(self, parser: Callable[[str], Iterable[Any]]) -> None:
        self.parser = parser

    def __call__(self, prompt: str) -> list[str]:
        """The lemmas of the prompt's nouns, in order, each once."""
        nouns = (token.lemma_.lower() for token in self.parser(prompt) if token.pos_ in ("NOUN", "PROPN"))
        return list(dict.fromkeys(nouns))


def words(text: str) -> list[str]:
    """The words of a text in lower case: letters and digits, with apostrophes inside; a hyphen is a blank."""
    return re.findall(r"[^\W_]+(?:['’][^\W_]+)*", text.lower())


def _forms(label: str, plurals: bool) -> Iterator[str]:
    """The ways to say a label: itself, and its regular plurals."""
    said = " ".join(words(label))
    yield said
    if plurals and said:
        yield from (f"{said}s", f"{said}es")
        yield from (f"{said[:-len(end)]}{many}" for end, many in (("y", "ies"), ("f", "ves"), ("fe", "ves"))
                    if said.endswith(end))  # fmt: skip


def _refuse(prompt: str, labels: list[str]) -> list[str]:
    if len(words(prompt)) == 1:
        raise unknown("noun", prompt.strip(), labels)
    shown = ", ".join(sorted(labels)[:12]) + (f", and {len(labels) - 12} more" if len(labels) > 12 else "")
    raise SparsightError(f"the prompt {prompt!r} names none of the known labels ({shown or 'there are none'})")
