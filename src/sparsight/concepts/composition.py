"""What the codes of one step say of the composition: a mask for every noun, and how well it fits.

Source: Tinaz et al. 2025, sections 3.4 and 4.2. Each position gets a vector out of the dictionary entries of the latents
that fire there (the conceptual map); where its cosine with a noun's vector is above a threshold, the noun is predicted.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from sparsight.concepts.dictionary import ConceptDictionary
from sparsight.concepts.targets import Targets
from sparsight.concepts.words import WordVectors, embed_word
from sparsight.errors import SparsightError, unknown
from sparsight.sae.sparsity import SparseCode

WEIGHTINGS = ("activation", "plain")
NOTHING = -1.0  # the score where no active latent has an entry: below every threshold that a sweep tries


@dataclass
class ConceptReader:
    """Reads the codes of one site and step through their dictionary.

    `weighting` of the vectors of a position's latents: by "activation" (INFERRED, the default) or "plain". `top` takes
    only that many of the strongest latents that have an entry (None: all). `repeats` as in
    `ConceptDictionary.embeddings`. Latents without an entry say nothing; a position with no other scores -1.
    """

    dictionary: ConceptDictionary
    words: WordVectors
    weighting: str = "activation"
    top: int | None = None
    repeats: bool = True
    _table: tuple[Tensor, Tensor] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.weighting not in WEIGHTINGS:
            raise unknown("weighting of latents", self.weighting, WEIGHTINGS)
        if self.top is not None and self.top < 1:
            raise SparsightError(f"the top {self.top} latents of a position are none: take 1 or more")
        self.dictionary.require_words(self.words)
        self._table = self.dictionary.embeddings(self.repeats)

    def conceptual_map(self, code: SparseCode) -> Tensor:
        """The mean vector at each of the code's T tokens, (T, d); zero where no active latent has an entry."""
        if len(code.indices) and int(code.indices.max()) >= self.dictionary.latents:
            raise SparsightError(
                f"the codes name latent {int(code.indices.max())}, but the dictionary is of an SAE with {self.dictionary.latents}"
            )
        vectors, has = self._table
        code = SparseCode(code.indices.cpu(), code.values.detach().float().cpu(), code.offsets.cpu())
        code = strongest(code.where(has[code.indices]), self.top)
        if self.weighting == "plain":
            code = code._replace(values=torch.ones_like(code.values))
        total = torch.zeros(len(code.l0)).index_add_(0, code.tokens, code.values)
        return code.matmul(vectors) / total.clamp_min(1e-12)[:, None]

    def scores(self, code: SparseCode, targets: Targets) -> Tensor:
        """The cosine of every target's noun with each position of its image, (n, h, w)."""
        grid = self.dictionary.grid
        seen = self.conceptual_map(code)
        self._check_whole(len(seen), targets)
        empty = (seen == 0).all(1).reshape(-1, *grid)
        images = F.normalize(seen, dim=1).reshape(-1, *grid, seen.shape[1])
        nouns = list(dict.fromkeys(targets.nouns))
        vectors = {n: F.normalize(embed_word(self.words, n, self.dictionary.labels), dim=0) for n in nouns}
        scores = [images[i] @ vectors[n] for i, n in zip(targets.image.tolist(), targets.nouns, strict=True)]
        return torch.stack(scores).masked_fill(empty[targets.image], NOTHING) if scores else torch.zeros(0, *grid)

    def _check_whole(self, tokens: int, targets: Targets) -> None:
        height, width = self.dictionary.grid
        images, left = divmod(tokens, height * width)
        if left or (len(targets.image) and int(targets.image.max()) >= images):
            raise SparsightError(
                f"the codes hold {tokens} tokens, which are not the images' whole grids of {height}x{width}"
            )

    def predict(self, code: SparseCode, noun: str, threshold: float, size: tuple[int, int]) -> Tensor:
        """The predicted mask of one noun in every image of the code, (B, H, W) bool at `size`.

        A noun without a word vector is a `SparsightError` that offers the nearest labels.
        """
        positions = self.dictionary.grid[0] * self.dictionary.grid[1]
        images = torch.arange((len(code.offsets) - 1) // positions)
        blank = torch.zeros(0, *size, dtype=torch.bool)
        scores = self.scores(code, Targets(images, [noun] * len(images), blank, {}))
        return F.interpolate((scores > threshold)[:, None].float(), size, mode="nearest")[:, 0].bool()


def strongest(code: SparseCode, most: int | None) -> SparseCode:
    """The `most` largest entries of each token (None: all)."""
    if most is None:
        return code
    tokens = code.tokens
    order = code.values.argsort(descending=True, stable=True)
    order = order[tokens[order].argsort(stable=True)]
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order)) - code.offsets[tokens[order]]
    return code.where(rank < most)
