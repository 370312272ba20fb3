"""wordllama's static vectors: the default, since the package carries them and nothing is downloaded.

32,000 pieces of words x 256, distilled by Lee Miller (wordllama, MIT) from the token embeddings of several language
models, Llama 2 among them. Not Word2Vec: related things (cat, kitten) lie near each other, unrelated ones near 0.
Only its two data files are read: `wordllama.WordLlama.load` would ask the network for a tokenizer.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from sparsight.errors import SparsightError

_BYTE = re.compile(r"<0x..>|<unk>")


class WordLlama:
    """A `WordVectors` in which a word is the mean of its pieces ("ban" + "ana"), in lower case.

    Every text has pieces, so `known` asks that they are no single bytes, and on average of at least `letters` letters
    each: a random string falls apart into smaller ones. `letters=0` knows every word of the Latin alphabet.
    """

    name = "wordllama"

    def __init__(self, letters: float = 1.5) -> None:
        self.table, self.tokenizer = _files()
        self.size, self.letters = self.table.shape[1], letters

    def known(self, word: str) -> bool:
        """See `WordVectors`."""
        pieces = [piece.replace("▁", "") for piece in self._encode(word).tokens]
        pieces = [piece for piece in pieces if piece]
        if not pieces or any(_BYTE.fullmatch(piece) for piece in pieces):
            return False
        return len(pieces) == 1 or sum(map(len, pieces)) >= self.letters * len(pieces)

    def vectors(self, words: Sequence[str]) -> Tensor:
        """See `WordVectors`."""
        for word in words:
            if not self.known(word):
                raise SparsightError(f"the word {word!r} has no vector in {self.name}")
        rows = [self.table[self._encode(word).ids].float().mean(0) for word in words]
        return torch.stack(rows) if rows else torch.zeros(0, self.size)

    def _encode(self, word: str) -> Any:
        return self.tokenizer.encode(word.strip().lower(), add_special_tokens=False)


@cache
def _files() -> tuple[Tensor, Any]:
    from tokenizers import Tokenizer

    package = find_spec("wordllama")
    if package is None or not package.submodule_search_locations:
        raise SparsightError("the word vectors of wordllama are not installed: pip install wordllama")
    root = Path(package.submodule_search_locations[0])
    weights, tokenizer = (
        root / "weights/l2_supercat_256.safetensors",
        root / "tokenizers/l2_supercat_tokenizer_config.json",
    )
    try:
        return load_file(weights)["embedding.weight"], Tokenizer.from_file(str(tokenizer))
    except Exception as error:  # tokenizers raises no class of its own
        raise SparsightError(f"the installed wordllama has other files than 0.4: {error}") from error
