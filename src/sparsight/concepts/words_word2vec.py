"""Word2Vec vectors out of a file, read by gensim: what Tinaz et al. 2025 embed their dictionary with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sparsight.errors import SparsightError


class Word2Vec:
    """A `WordVectors` on gensim's `KeyedVectors`, or on a file in word2vec's own text or binary format.

    A file is binary if its name contains ".bin" (such as GoogleNews-vectors-negative300.bin.gz) unless `binary` says
    otherwise; `limit` reads its first words only, which are the commonest. gensim's own files are pickles and are
    refused: save them again with `save_word2vec_format`. A word is looked up as it is, then in lower case, then with
    a capital. Raises `SparsightError` without gensim (`pip install sparsight[word2vec]`) or for an unreadable file.
    """

    def __init__(self, source: Any, *, binary: bool | None = None, limit: int | None = None) -> None:
        self.keyed: Any = source
        self.name = "word2vec"
        if isinstance(source, str | Path):
            self.keyed, self.name = _read(Path(source), binary, limit), f"word2vec:{source}"
        self.size = int(self.keyed.vector_size)

    def known(self, word: str) -> bool:
        """See `WordVectors`."""
        return self._key(word) is not None

    def vectors(self, words: Sequence[str]) -> Tensor:
        """See `WordVectors`."""
        rows = []
        for word in words:
            key = self._key(word)
            if key is None:
                raise SparsightError(f"the word {word!r} has no vector in {self.name}")
            rows.append(np.asarray(self.keyed[key], dtype=np.float32))
        return torch.from_numpy(np.stack(rows)) if rows else torch.zeros(0, self.size)

    def _key(self, word: str) -> str | None:
        forms = (word, word.lower(), word.capitalize())
        return next((form for form in forms if form in self.keyed.key_to_index), None)


def _read(path: Path, binary: bool | None, limit: int | None) -> Any:
    try:
        from gensim.models import KeyedVectors
    except ImportError as error:
        raise SparsightError("reading Word2Vec vectors needs gensim: pip install 'sparsight[word2vec]'") from error
    if not path.is_file():
        raise SparsightError(f"the word vectors {path} are not there")
    if path.suffix in (".kv", ".model", ".npy", ".pkl"):
        raise SparsightError(f"{path} is a pickle of gensim's: save the vectors with save_word2vec_format instead")
    try:
        as_binary = ".bin" in path.name if binary is None else binary
        return KeyedVectors.load_word2vec_format(str(path), binary=as_binary, limit=limit)
    except (ValueError, OSError, EOFError, UnicodeDecodeError, IndexError) as error:
        raise SparsightError(f"{path} holds no word vectors in word2vec's text or binary format: {error}") from error
