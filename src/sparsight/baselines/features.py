"""Which latents of an SAE stand for a concept, and how strongly they fire: what edits by single features begin with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from sparsight.baselines.data import FitData
from sparsight.concepts.concept import Concept
from sparsight.errors import SparsightError, unknown
from sparsight.steering.concept_checks import require_latents

WAYS = ("labels", "entries", "evidence")
"""How latents are found: by labelled images, or by the source of latents: by dictionary entries, or by evidence."""


class Features(NamedTuple):
    """Latents, and for each (k,) fp32 the mean of its activation over the training positions where it is active."""

    latents: tuple[int, ...]
    means: Tensor


class _Tally(NamedTuple):
    sums: Tensor  # (2, d_sae): over tokens without and with the concept
    active: Tensor  # (d_sae,): tokens in which a latent fires


def require_way(by: str) -> None:
    """Raise `SparsightError` for a way to find latents that is none of `WAYS`."""
    if by not in WAYS:
        raise unknown("way to find latents", by, WAYS)


def features(data: FitData, concept: Concept, latents: Sequence[int], count: int, by: str = "labels") -> Features:
    """`latents` as they are; or the `count` best as the source of latents finds them; or, by "labels", the `count` best by
    share difference on labelled images of the window: for a concept of layout, images with its object and without.

    A latent's score is its share of all activation with the concept minus that without, as in RIEBench (Surkov et al.)
    and SAeUron, pooled over the window. Raises `SparsightError` for latents that do not exist or never fire.
    """
    if not latents and by != "labels":
        latents = data.latents(concept, by, count)
    tally = _tally(data, None if latents else _with(data.labels(concept.thing or concept)))
    chosen = require_latents(data.sae, latents) if latents else _best(tally, count)
    active = tally.active[list(chosen)]
    if bool((active == 0).any()):
        silent = chosen[int((active == 0).nonzero()[0])]
        raise SparsightError(f"latent {silent} fires nowhere in the training images, so no strength can be given to it")
    return Features(chosen, (tally.sums.sum(0)[list(chosen)] / active).float())


def _with(labels: Tensor) -> Tensor:
    yes = labels if labels.dtype == torch.bool else labels > labels.float().median()
    if yes.all() or not yes.any():
        raise SparsightError("latents are chosen from images with the concept and images without it: both are needed")
    return yes


def _tally(data: FitData, yes: Tensor | None) -> _Tally:
    sae = data.sae
    of = dict(zip(data.numbers, yes.tolist() if yes is not None else [False] * len(data.numbers), strict=True))
    sums = torch.zeros(2, sae.config.d_sae, dtype=torch.float64)
    active = torch.zeros(sae.config.d_sae, dtype=torch.float64)
    for rows in data.chunks("tokens"):
        for image, t, tokens in zip(rows["image"].tolist(), rows["t"].tolist(), rows["tokens"], strict=True):
            code = sae.encode_sparse(tokens.to(sae.mean.device, torch.float32), t)
            sums[int(of[image])].index_add_(0, code.indices.cpu(), code.values.detach().double().cpu())
            active.index_add_(0, code.indices.cpu(), torch.ones(len(code.indices), dtype=torch.float64))
    return _Tally(sums, active)


def _best(tally: _Tally, count: int) -> tuple[int, ...]:
    shares = tally.sums / tally.sums.sum(1, keepdim=True).clamp_min(1e-12)
    return tuple((shares[1] - shares[0]).topk(min(count, shares.shape[1])).indices.tolist())
