"""Does an SAE fit an edit? Its latents, its site, its stage and its half, each refused in one sentence."""

from __future__ import annotations

from collections.abc import Sequence

from sparsight.diffusion.sites import split_site
from sparsight.errors import SparsightError
from sparsight.sae import SAE
from sparsight.steering.interventions import Window


def require_latents(sae: SAE, latents: Sequence[int]) -> tuple[int, ...]:
    """The latents, each once. Raises `SparsightError` for none, and for numbers that the SAE does not have."""
    chosen, most = tuple(dict.fromkeys(int(latent) for latent in latents)), sae.config.d_sae
    if not chosen:
        raise SparsightError("an edit needs at least one latent")
    for latent in chosen:
        if not 0 <= latent < most:
            raise SparsightError(f"latent {latent} does not exist: the SAE has latents 0 to {most - 1}")
    return chosen


def require_site(sae: SAE, site: str) -> None:
    """Raise `SparsightError` for an SAE that says it was trained on another site, by a name of diffusers' modules."""
    made = str(sae.extra.get("site", ""))
    ours = made.split(".")[0].split(":")[0] in (
        "down_blocks",
        "mid_block",
        "up_blocks",
    )  # others have names of their own
    if ours and split_site(made) != split_site(site):
        raise SparsightError(f"the SAE was trained at {made}, but the edit is at {site}: use an SAE of that site")


def require_stage(sae: SAE, window: Window, scope: str) -> None:
    """Raise `SparsightError` for an SAE of another stage than `window`, or of the other half than `scope`."""
    stamps = sae.extra.get("timesteps")
    if stamps and not any(t in window for t in stamps):
        raise SparsightError(
            f"the SAE was trained at timesteps {min(stamps)} to {max(stamps)}, but the edit acts from {window.low} to "
            f"{window.high}: use an SAE of that stage, or strict=False"
        )
    if scope == "cond" and sae.extra.get("conditioning") == "uncond":
        raise SparsightError("the SAE was trained on the 'uncond' half, but the edit is of 'cond': use strict=False")
