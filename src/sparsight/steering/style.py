"""Global interventions: a concept everywhere, such as a style (Tinaz et al., arXiv 2504.15473, Eq. 3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from sparsight.sae import SAE
from sparsight.steering.concept_checks import require_latents, require_stage
from sparsight.steering.concept_edit import ConceptEdit
from sparsight.steering.interventions import Window


@dataclass(frozen=True)
class GlobalEdit(ConceptEdit):
    """At every position: + beta n_ij sum_c f_c. The paper's Eq. 3 has one latent c; a negative beta takes it away."""

    def _change(self, x: Tensor, t: Tensor | int | None) -> Tensor:
        if self.normaliser == "none":  # the codes decide nothing: do not read them
            return self.push(x.new_ones(x.shape[:-1]))
        return self.push(self.read(x, t).norms)


def global_edit(
    sae: SAE, latents: Sequence[int], *, site: str, beta: float, normaliser: str = "norm", scope: str = "cond",
    window: Window | None = None, strict: bool = True,
) -> GlobalEdit:  # fmt: skip
    """Add `latents` of `sae` at every position of `site` with strength `beta`.

    `window` defaults to all timesteps. Raises `SparsightError` as `spatial_edit` does.
    """
    window = window or Window(0, 999)
    if strict:
        require_stage(sae, window, scope)
    return GlobalEdit(
        site, float(beta), window, sae=sae, latents=require_latents(sae, latents), normaliser=normaliser, scope=scope
    )
