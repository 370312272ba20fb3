"""How well an SAE reconstructs, and how sparsely: sums in fp64 over the whole set, a chunk of codes at a time."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sparsight.activations import TokenBatch
from sparsight.errors import SparsightError
from sparsight.sae.model import SAE


class _Sums:
    """Running fp64 sums over tokens (n, d), from which every metric follows."""

    def __init__(self, sae: SAE) -> None:
        self.sae, self.n = sae, 0
        self.x = torch.zeros(sae.config.d_in, dtype=torch.float64, device=sae.mean.device)
        self.scalars = torch.zeros(5, dtype=torch.float64, device=sae.mean.device)  # xx, ee, cosine, centred, active
        self.fired = torch.zeros(sae.config.d_sae, dtype=torch.bool, device=sae.mean.device)

    def add(self, x: Tensor) -> None:
        code = self.sae.encode_sparse(x)
        out, mean = self.sae.decode(code).double(), self.sae.mean.double()
        x = x.double()
        cosines = [F.cosine_similarity(x, out, dim=1), F.cosine_similarity(x - mean, out - mean, dim=1)]
        sums = [
            (x - mean).square().sum(),
            (x - out).square().sum(),
            *(c.sum() for c in cosines),
            code.l0.sum().double(),
        ]
        self.scalars += torch.stack(sums)
        self.x += (x - mean).sum(0)  # around the SAE's mean: nothing large cancels in fve
        self.fired[code.indices] = True
        self.n += len(x)

    def metrics(self) -> dict[str, Any]:
        xx, ee, cosine, centred, active = self.scalars.tolist()
        spread = xx - float(self.x.square().sum()) / self.n
        mse = ee / (self.n * self.sae.config.d_in)
        return {
            "mse": mse,
            "mse_normalised": mse * float(self.sae.scale) ** 2,
            "cosine": cosine / self.n,
            "cosine_centred": centred / self.n,
            "fve": 1 - ee / spread if spread > 0 else 0.0,
            "l0": active / self.n,
            "dar": active / self.n / self.sae.config.d_sae,
            "dead": 1 - float(self.fired.double().mean()),
            "n_tokens": self.n,
        }


@torch.no_grad()
def evaluate_sae(
    sae: SAE, batches: Iterable[Tensor | TokenBatch], bins: Sequence[int] | None = None, chunk: int = 4096
) -> dict[str, Any]:
    """Score an SAE on a finite set of raw tokens (..., d_in).

    Returns: `mse` a channel in raw units and `mse_normalised` in those of the training loss; `cosine` of x and x_hat
    and `cosine_centred`, after subtracting the SAE's mean (a large mean makes the plain one look good); `fve` = 1 -
    sum|e|^2 / sum|x - mu|^2 with mu the mean of this set; `l0` active latents a token; `dar`, the mean share of latents
    above 0; `dead`, the share of latents that never fired here; `n_tokens`.

    With `bins` (edges of t, needs `TokenBatch`es) the key `by_t` holds the same for each [edge, next edge) with tokens.
    Raises `SparsightError` if there are no tokens.
    """
    whole = _Sums(sae)
    parts = [_Sums(sae) for _ in (bins or [])[:-1]]
    for batch in batches:
        tokens = batch.tokens if isinstance(batch, TokenBatch) else batch
        for x in tokens.to(sae.mean.device).reshape(-1, sae.config.d_in).split(chunk):
            whole.add(x)
        if bins is not None:
            _add_by_t(parts, bins, batch, sae.mean.device)
    if not whole.n:
        raise SparsightError("there are no tokens to evaluate the SAE on")
    if bins is None:
        return whole.metrics()
    ranges = zip(bins[:-1], bins[1:], parts, strict=True)
    return whole.metrics() | {"by_t": [{"from": a, "to": b, **p.metrics()} for a, b, p in ranges if p.n]}


def _add_by_t(parts: list[_Sums], bins: Sequence[int], batch: Tensor | TokenBatch, device: torch.device) -> None:
    if not isinstance(batch, TokenBatch):
        raise SparsightError("bins of t need batches that know their t: pass TokenBatches, not plain tensors")
    which = torch.tensor([bisect_right(bins, t) - 1 for t in batch.t.tolist()])
    for index, part in enumerate(parts):
        if (which == index).any():
            part.add(batch.tokens[which == index].to(device))
