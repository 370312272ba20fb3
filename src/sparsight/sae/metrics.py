"""How well an SAE reconstructs, and how sparsely: sums in fp64 over the whole set, a chunk of codes at a time."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sparsight.activations import TokenBatch
from sparsight.errors import SparsightError
from sparsight.sae.model import SAE

DENSITY_EDGES = tuple(-6 + 0.25 * i for i in range(25))  # log10 of the share of tokens, from one in a million to all


class _Sums:
    """Running fp64 sums over tokens (n, d), from which every metric follows."""

    def __init__(self, sae: SAE) -> None:
        self.sae, self.n = sae, 0
        self.x = torch.zeros(sae.config.d_in, dtype=torch.float64, device=sae.mean.device)
        self.scalars = torch.zeros(5, dtype=torch.float64, device=sae.mean.device)  # xx, ee, cosine, centred, active
        self.fired = torch.zeros(
            sae.config.d_sae, dtype=torch.int64, device=sae.mean.device
        )  # tokens a latent fired on

    def add(self, x: Tensor, t: Tensor | None) -> None:
        code = self.sae.encode_sparse(x, t)
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
        self.fired += torch.bincount(code.indices, minlength=len(self.fired))
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
            "dead": float((self.fired == 0).double().mean()),
            "n_tokens": self.n,
        }

    def density(self) -> dict[str, Any]:
        share = self.fired[self.fired > 0].double() / self.n
        number = (share.log10() - DENSITY_EDGES[0]).div(DENSITY_EDGES[1] - DENSITY_EDGES[0]).floor().long()
        count = torch.bincount(number.clamp(0, len(DENSITY_EDGES) - 2), minlength=len(DENSITY_EDGES) - 1)
        never = len(self.fired) - len(share)
        return {"log10_edges": list(DENSITY_EDGES), "latents": count.tolist(), "never": never}


@torch.no_grad()
def evaluate_sae(
    sae: SAE,
    batches: Iterable[Tensor | TokenBatch],
    bins: Sequence[int] | None = None,
    chunk: int = 4096,
    density: bool = False,
) -> dict[str, Any]:
    """Score an SAE on a finite set of raw tokens (..., d_in).

    Returns: `mse` a channel in raw units and `mse_normalised` in those of the training loss; `cosine` of x and x_hat
    and `cosine_centred`, after subtracting the SAE's mean (a large mean makes the plain one look good); `fve` = 1 -
    sum|e|^2 / sum|x - mu|^2 with mu the mean of this set; `l0` active latents a token; `dar`, the mean share of latents
    above 0; `dead`, the share of latents that never fired here; `n_tokens`.

    With `bins` (edges of t, needs `TokenBatch`es) the key `by_t` holds the same for each [edge, next edge) with tokens.
    With `density` the key `density` holds the histogram of how often latents fire: `latents[i]` of them on a share of
    tokens whose log10 lies in [`log10_edges[i]`, `log10_edges[i + 1]`) (the ends take what lies beyond them), `never` not
    once. Raises `SparsightError` if there are no tokens, or if the SAE is told t and the batches do not know theirs.
    """
    whole = _Sums(sae)
    parts = [_Sums(sae) for _ in (bins or [])[:-1]]
    for batch in batches:
        for x, t in _pieces(sae, batch, chunk):
            whole.add(x, t)
        if bins is not None:
            _add_by_t(parts, bins, batch, chunk)
    if not whole.n:
        raise SparsightError("there are no tokens to evaluate the SAE on")
    found = whole.metrics() | ({"density": whole.density()} if density else {})
    if bins is None:
        return found
    ranges = zip(bins[:-1], bins[1:], parts, strict=True)
    return found | {"by_t": [{"from": a, "to": b, **p.metrics()} for a, b, p in ranges if p.n]}


def _pieces(sae: SAE, batch: Tensor | TokenBatch, chunk: int) -> Iterator[tuple[Tensor, Tensor | None]]:
    """The tokens (rows, d_in) of a batch and their t (rows,), if it knows them, a chunk at a time."""
    tokens = batch.tokens if isinstance(batch, TokenBatch) else batch
    rows = tokens.to(sae.mean.device).reshape(-1, sae.config.d_in).split(chunk)
    return zip(rows, batch.t.split(chunk) if isinstance(batch, TokenBatch) else [None] * len(rows), strict=True)


def _add_by_t(parts: list[_Sums], bins: Sequence[int], batch: Tensor | TokenBatch, chunk: int) -> None:
    if not isinstance(batch, TokenBatch):
        raise SparsightError("bins of t need batches that know their t: pass TokenBatches, not plain tensors")
    which = torch.tensor([bisect_right(bins, t) - 1 for t in batch.t.tolist()])
    for index, part in enumerate(parts):
        if (which == index).any():
            for x, t in _pieces(part.sae, TokenBatch(*(column[which == index] for column in batch)), chunk):
                part.add(x, t)


@torch.no_grad()
def explained_variance(sae: SAE, x: Tensor, t: Tensor | None = None) -> dict[str, float]:
    """The two metrics of Tinaz et al. 2025, Table 1, on raw tokens (n, d_in): `scaled_mse` and `explained_variance`.

    The paper gives no formulas; these are those of the trainer that it names as its model (INFERRED): the mean squared
    error over the mean square of x - mean(x), and 1 - Var(x - x_hat) / Var(x), averaged over channels. `t` (n,) is for
    SAEs that are told the timestep.
    """
    error = x.double() - sae.decode(sae.encode_sparse(x, t)).double()
    spread = x.double().var(0, correction=0)
    share = 1 - error.var(0, correction=0) / spread.clamp_min(1e-30)
    return {
        "scaled_mse": float(error.square().mean() / spread.mean().clamp_min(1e-30)),
        "explained_variance": float(share[spread > 0].mean()),
    }
