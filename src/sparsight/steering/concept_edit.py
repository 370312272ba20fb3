"""What spatial and global interventions share: an SAE's concept latents, their atoms, the normaliser and the scope.

Tinaz et al. (arXiv 2504.15473), section 3.5: codes Z = E(x) are read at each position, and the site's tokens x are moved
along atoms f_c of the decoder, never replaced by a reconstruction. Strength is beta * n_ij, with n_ij by the normaliser:

`none`            1
`norm`            |Z_ij|                    the paper's words for spatial edits
`norm_over_sum`   |Z_ij| / sum_ij |Z_ij|    the paper's words for global edits
`norm_over_mean`  |Z_ij| / mean_ij |Z_ij|

The paper's table of strengths fits these better the other way round, so that every edit may choose any.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor

from sparsight.diffusion.sites import Step
from sparsight.errors import SparsightError, unknown
from sparsight.sae import SAE
from sparsight.steering.concept_checks import require_latents, require_site
from sparsight.steering.interventions import Steering, Window

NORMALISERS = ("none", "norm", "norm_over_sum", "norm_over_mean")
SCOPES = ("cond", "both")


class Reading(NamedTuple):
    """What an SAE says of tokens (B, N, C): codes of the chosen latents (B, N, k), and |Z| over all latents (B, N)."""

    codes: Tensor
    norms: Tensor


@dataclass(frozen=True)
class ConceptEdit(Steering):
    """An edit along the atoms of concept latents; `alpha` is the paper's beta, and 0 returns the very same tokens.

    `directions` (k, C) are in raw activation units, by default the atoms of `latents`: adding 1 to code c adds
    `directions[c]`. `scope` "cond" edits the rows that see the prompt, "both" all. Everything is computed in fp32.
    """

    window: Window = field(default_factory=lambda: Window(0, 999))
    sae: SAE | None = None
    latents: tuple[int, ...] = ()
    directions: Tensor | None = None
    normaliser: str = "norm"
    scope: str = "cond"

    def __post_init__(self) -> None:
        if self.normaliser not in NORMALISERS:
            raise unknown("normaliser", self.normaliser, NORMALISERS)
        if self.scope not in SCOPES:
            raise unknown("scope", self.scope, SCOPES)
        if self.directions is None:
            object.__setattr__(self, "latents", require_latents(self._sae, self.latents))
            object.__setattr__(self, "directions", atoms(self._sae, self.latents))
        require_site(self._sae, self.site)

    def change(self, tokens: Tensor, t: Tensor | int | None = None) -> Tensor:
        """What is added to tokens (B, N, C) at strength `alpha`: (B, N, C) fp32. `t` is for SAEs that are told t."""
        x = tokens.to(self._sae.mean.device, torch.float32)
        if x.shape[-1] != self._sae.config.d_in:
            raise SparsightError(
                f"the SAE reads {self._sae.config.d_in} channels, but {self.site} has {x.shape[-1]}: "
                "it was trained at another site"
            )
        return (self.unit * self._change(x, t)).to(tokens.device)

    def _change(self, x: Tensor, t: Tensor | int | None) -> Tensor:
        raise NotImplementedError

    def check(self, step: Step) -> None:
        """Raise `SparsightError` where the edit does not fit the site at `step`."""

    def _shift(self, tokens: Tensor) -> Tensor:
        return replace(self, alpha=1.0, unit=1.0).change(tokens)

    def __call__(self, tokens: Tensor, step: Step) -> Tensor:
        """Tokens (B, N, C), in fp32 where anything is changed; rows out of scope keep every bit."""
        return tokens if self.alpha == 0 else add_changes(tokens, step, [self])

    @property
    def _sae(self) -> SAE:
        if self.sae is None:
            raise SparsightError("an edit of concept latents needs their SAE")
        return self.sae

    def read(self, x: Tensor, t: Tensor | int | None) -> Reading:
        """The codes and norms of tokens (B, N, C), without making the code dense."""
        code, shape = self._sae.encode_sparse(x, t), x.shape[:-1]
        place = torch.full((self._sae.config.d_sae,), -1, device=x.device)
        place[list(self.latents)] = torch.arange(len(self.latents), device=x.device)
        own = place[code.indices] >= 0
        codes = x.new_zeros(shape.numel(), len(self.latents))
        codes[code.tokens[own], place[code.indices[own]]] = code.values[own].to(x.dtype)
        squares = x.new_zeros(shape.numel()).index_add(0, code.tokens, code.values.to(x.dtype).square())
        return Reading(codes.view(*shape, -1), squares.sqrt().view(shape))

    def push(self, norms: Tensor) -> Tensor:
        """beta * n_ij times the sum of the directions, for norms (B, N): (B, N, C)."""
        assert self.directions is not None
        return self.alpha * normalised(norms, self.normaliser).unsqueeze(-1) * self.directions.sum(0)


def normalised(norms: Tensor, normaliser: str) -> Tensor:
    """n_ij for norms |Z_ij| (B, N); sums and means run over the positions of each image. An all-zero map stays zero."""
    if normaliser == "none":
        return torch.ones_like(norms)
    if normaliser == "norm":
        return norms
    whole = norms.sum(-1, keepdim=True) if normaliser == "norm_over_sum" else norms.mean(-1, keepdim=True)
    return norms / whole.clamp_min(1e-12)


def add_changes(tokens: Tensor, step: Step, edits: Sequence[ConceptEdit]) -> Tensor:
    """Tokens plus the changes of all edits, each read from the same `tokens` and added to the rows of its scope."""
    changed = tokens.float().clone()
    for edit in edits:
        edit.check(step)
        for half in (step.halves or ("cond",)) if edit.scope == "both" else ("cond",):
            rows = step.rows(half)
            changed[rows] += edit.change(tokens[rows], step.t)
    if tokens.dtype == torch.float16 and bool((changed.abs() > torch.finfo(torch.float16).max).any()):
        raise SparsightError(
            f"an edit at {edits[0].site} leaves the range of fp16: lower its beta, or load the model in bf16"
        )
    return changed


@dataclass(frozen=True)
class Together:
    """Several edits of one site that all read the unedited tokens; in a list each would read what the one before left."""

    site: str
    edits: tuple[ConceptEdit, ...]

    def active(self, t: int) -> bool:
        """Whether any of them acts at timestep `t`."""
        return any(edit.active(t) for edit in self.edits)

    def __call__(self, tokens: Tensor, step: Step) -> Tensor:
        """Tokens (B, N, C) plus the changes of those that act now."""
        acting = [e for e in self.edits if e.alpha != 0 and (not isinstance(step.t, int) or e.active(step.t))]
        return add_changes(tokens, step, acting) if acting else tokens


def edit_together(edits: Sequence[ConceptEdit]) -> Together:
    """Make several edits of one site act at once. Raises `SparsightError` for none, and for different sites."""
    sites = sorted({edit.site for edit in edits})
    if len(sites) != 1:
        raise SparsightError(f"edits act together at one site, not at {', '.join(sites) or 'none'}")
    return Together(sites[0], tuple(edits))


def atoms(sae: SAE, latents: Sequence[int]) -> Tensor:
    """The decoder's columns of `latents` in raw activation units, (k, C) fp32."""
    return sae.W_dec.detach()[list(latents)].float() / sae.scale.float()
