"""Text-image agreement in the embedding space of a CLIP-like pair of towers.

Sources: CLIP score, Hessel et al. 2021 (CLIPScore, without its factor 2.5, scaled by 100 as the field does);
directional loss, Kim et al. 2022 (DiffusionCLIP), used by CASL equation 8. Embeddings need not be unit length:
everything normalises.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sparsight.errors import SparsightError, unknown

FORMS = ("cosine", "log")
_TINY = 1e-12


def unit(x: Tensor) -> Tensor:
    """`x` (..., d) at unit length along its last axis; zero stays zero, with a finite gradient.

    Half precision is computed, and returned, as float32: the squares would underflow.
    """
    x = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    return x * (x.square().sum(dim=-1, keepdim=True) + _TINY**2).rsqrt()


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Cosine of (n, d) with (n, d) or (d,) -> (n,); 0 where a vector is zero. Other shapes are a `SparsightError`."""
    if a.ndim != 2 or b.shape not in (a.shape, a.shape[1:]):
        raise SparsightError(f"embeddings must be (n, d) and (n, d) or (d,), not {tuple(a.shape)} and {tuple(b.shape)}")
    return (unit(a) * unit(b)).sum(dim=-1)


def clip_score(image_emb: Tensor, text_emb: Tensor) -> Tensor:
    """CLIP score of images (n, d) with texts (n, d) or one text (d,) -> (n,), 100 x max(cosine, 0).

    Comparable only within one pair of towers; for the unclipped number use `cosine`.
    """
    return 100 * cosine(image_emb, text_emb).clamp(min=0)


def directional_similarity(
    image_before: Tensor, image_after: Tensor, text_before: Tensor, text_after: Tensor
) -> Tensor:
    """Cosine between the change of the images and the change of the texts -> (n,), in [-1, 1].

    Images (n, d), texts (d,) or (n, d). Each embedding is brought to unit length before the differences are taken, as
    in DiffusionCLIP. An image that did not change has no direction and scores 0. Raises `SparsightError` for texts
    that embed to one point.
    """
    return cosine(unit(image_after) - unit(image_before), _text_direction(text_before, text_after))


def directional_loss(
    image_before: Tensor,
    image_after: Tensor,
    text_before: Tensor,
    text_after: Tensor,
    form: str = "cosine",
    softening: float = 1e-3,
) -> Tensor:
    """The directional loss L = 1 - cos(image change, text change), mean over images -> scalar, differentiable.

    `form="cosine"` gives L (CASL equation 8); `form="log"` gives -log((2 - L) / 2), as Asyrp's code has it. The
    length of the image change enters as sqrt(|d|^2 + softening^2). So an edit of exactly zero, where CASL's training
    starts, has L = 1 and the finite gradient -t / softening towards the text change t, where the plain cosine gives
    NaN; a change of length 0.05 feels it by 0.02 %. Shapes and errors as in `directional_similarity`; an unknown form
    raises too.
    """
    if form not in FORMS:
        raise unknown("form of the directional loss", form, FORMS)
    change = unit(image_after) - unit(image_before)
    length = (change.square().sum(dim=-1) + softening**2).sqrt()
    loss = 1 - (change * _text_direction(text_before, text_after)).sum(dim=-1) / length
    if form == "log":
        loss = -((2 - loss) / 2).clamp(min=1e-6).log()
    return loss.mean()


def _text_direction(before: Tensor, after: Tensor) -> Tensor:
    direction = unit(after) - unit(before)
    if bool((direction.norm(dim=-1) < 1e-6).any()):
        raise SparsightError("the two texts embed to the same point, so they give no direction")
    return unit(direction)
