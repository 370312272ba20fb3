"""The equation that all formats share, and the way from it to an `SAE` and back."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sparsight.errors import SparsightError
from sparsight.sae import hub
from sparsight.sae.config import SAEConfig
from sparsight.sae.model import SAE


class Plain(NamedTuple):
    """z = act((x - p b_dec) W_enc + b_enc), x_hat = z W_dec + b_dec on raw activations x, where p is `pre_bias`.

    W_enc (d_in, d_sae), b_enc (d_sae,), W_dec (d_sae, d_in), b_dec (d_in,), all fp32. `more` holds what an activation needs
    besides, one number a latent in the latent's own unit, under the name that `SAE` has for it: a threshold, say.
    """

    W_enc: Tensor
    b_enc: Tensor
    W_dec: Tensor
    b_dec: Tensor
    pre_bias: bool = True
    more: Mapping[str, Tensor] = MappingProxyType({})

    def unit_atoms(self) -> Plain:
        """The same reconstruction with atoms of length 1: z grows by what the atoms lose. Exact for ReLU alone."""
        norm = self.W_dec.norm(dim=1).clamp_min(torch.finfo(self.W_dec.dtype).tiny)
        more = {name: tensor * norm for name, tensor in self.more.items()}
        return Plain(self.W_enc * norm, self.b_enc * norm, self.W_dec / norm[:, None], self.b_dec, self.pre_bias, more)


def fold(sae: SAE, pre_bias: bool, more: tuple[str, ...] = ()) -> Plain:
    """An SAE without its input statistics: they become part of the weights, and no latent changes its value.

    With h = (x - mean) scale: W_dec / scale and b_dec / scale + mean give raw units, and scale W_enc reads them. `pre_bias`
    says in which of the two forms of `Plain` the encoder is wanted; the bias b_enc takes up the difference.
    """
    mean, scale = sae.mean.detach().double(), sae.scale.detach().double()
    W_enc = sae.W_enc.detach().double() * scale
    b_enc, b_dec = sae.b_enc.detach().double(), sae.b_dec.detach().double() / scale + mean
    subtracted = b_dec if sae.config.pre_bias else mean  # from x, before W_enc
    b_enc = b_enc + ((b_dec if pre_bias else torch.zeros_like(mean)) - subtracted) @ W_enc
    W_dec = sae.W_dec.detach().double() / scale
    kept = {name: _single(getattr(sae, name).detach()) for name in more}
    return Plain(_single(W_enc), _single(b_enc), _single(W_dec), _single(b_dec), pre_bias, kept)


def _single(tensor: Tensor) -> Tensor:
    return tensor.float().cpu().contiguous()


def to_sae(plain: Plain, activation: str, k: int | None, extra: dict[str, Any], name: str, scale: float = 1.0) -> SAE:
    """An SAE, frozen, that reads raw activations times `scale`; `name` is what an error calls it."""
    d_in, d_sae = plain.W_enc.shape
    norm = "unit" if bool(((plain.W_dec.norm(dim=1) - 1).abs() < 1e-5).all()) else "free"
    config = SAEConfig(d_in, d_sae, activation, 32 if k is None else k, norm, plain.pre_bias)
    sae = SAE(config)
    weights = {key: getattr(plain, key) for key in ("W_enc", "b_enc", "W_dec", "b_dec")}
    statistics = {"mean": torch.zeros(d_in), "scale": torch.tensor(scale)}
    hub.fill(sae, weights | statistics | dict(plain.more), name)
    sae.extra = extra
    return sae.requires_grad_(False)


def require_activation(sae: SAE, valid: tuple[str, ...] | dict[str, Any], name: str) -> None:
    """Refuse to write an SAE whose activation the format `name` has no word for."""
    if sae.config.activation not in valid:
        raise SparsightError(
            f"a {name} folder cannot hold an SAE with activation {sae.config.activation!r} (valid: {', '.join(valid)})"
        )
