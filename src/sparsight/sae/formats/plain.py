"""The equation that all formats share, and the way from it to an `SAE` and back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sparsight.errors import SparsightError
from sparsight.sae import hub
from sparsight.sae.config import SAEConfig
from sparsight.sae.model import SAE

WEIGHTS = ("W_enc", "b_enc", "W_dec", "b_dec")


class Plain(NamedTuple):
    """z = act((x - p b_dec) W_enc + b_enc), x_hat = z W_dec + b_dec on raw activations x, where p is `pre_bias`.

    W_enc (d_in, d_sae), b_enc (d_sae,), W_dec (d_sae, d_in), b_dec (d_in,), all fp32. `more` holds what an activation needs
    besides: "threshold", (d_sae,) for "jumprelu" and () for "batchtopk", or "r_mag" and "b_mag", (d_sae,) each, for "gated",
    whose gate is the act above and whose magnitude is exp(r_mag) (x - p b_dec) W_enc + b_mag.
    """

    W_enc: Tensor
    b_enc: Tensor
    W_dec: Tensor
    b_dec: Tensor
    pre_bias: bool = True
    more: Mapping[str, Tensor] = MappingProxyType({})

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], pre_bias: bool) -> Plain:
        """From all tensors by our names: the four of `WEIGHTS`, and those of `more`."""
        more = {name: tensor for name, tensor in tensors.items() if name not in WEIGHTS}
        return cls(**{name: tensors[name] for name in WEIGHTS}, pre_bias=pre_bias, more=more)

    def tensors(self) -> dict[str, Tensor]:
        """The inverse of `of`."""
        return {name: getattr(self, name) for name in WEIGHTS} | dict(self.more)

    def unit_atoms(self) -> Plain:
        """The same reconstruction with atoms of length 1: z grows by what the atoms lose. Of SAEs that have no `more`.

        With ReLU it is the same SAE; TopK then ranks its latents by what they contribute.
        """
        norm = self.W_dec.norm(dim=1).clamp_min(torch.finfo(self.W_dec.dtype).tiny)
        return self._replace(W_enc=self.W_enc * norm, b_enc=self.b_enc * norm, W_dec=self.W_dec / norm[:, None])


def fold(sae: SAE, pre_bias: bool) -> Plain:
    """An SAE without its input statistics: they become part of the weights, and no latent changes its value.

    With h = (x - mean) scale: W_dec / scale and b_dec / scale + mean give raw units, and scale W_enc reads them. `pre_bias`
    says in which of the two forms of `Plain` the encoder is wanted; the biases take up the difference. Thresholds stay,
    for they are compared with latents. Prefixes are no part of `Plain`.
    """
    mean, scale = sae.mean.detach().double(), sae.scale.detach().double()
    W_enc = sae.W_enc.detach().double() * scale
    b_dec = sae.b_dec.detach().double() / scale + mean
    subtracted = b_dec if sae.config.pre_bias else mean  # from x, before W_enc
    moved = ((b_dec if pre_bias else torch.zeros_like(mean)) - subtracted) @ W_enc
    b_enc, W_dec = sae.b_enc.detach().double() + moved, sae.W_dec.detach().double() / scale
    more = {name: _single(tensor) for name, tensor in _more(sae, moved).items()}
    return Plain(_single(W_enc), _single(b_enc), _single(W_dec), _single(b_dec), pre_bias, more)


def _more(sae: SAE, moved: Tensor) -> dict[str, Tensor]:
    """What an activation needs besides, as in `Plain`, after the product with W_enc has lost `moved` (d_sae,)."""
    if sae.config.activation == "jumprelu":
        return {"threshold": sae.log_threshold.detach().double().exp()}
    if sae.config.activation == "batchtopk":
        return {"threshold": sae.threshold.detach()}
    if sae.config.activation == "gated":  # the magnitude reads exp(r_mag) times the product, so it lost as much more
        r_mag = sae.r_mag.detach().double()
        return {"r_mag": r_mag, "b_mag": sae.b_mag.detach().double() + moved * r_mag.exp()}
    return {}


def _single(tensor: Tensor) -> Tensor:
    return tensor.float().cpu().contiguous()


def to_sae(
    plain: Plain,
    activation: str,
    k: int | None,
    extra: dict[str, Any],
    name: str,
    scale: float = 1.0,
    prefixes: tuple[int, ...] = (),
) -> SAE:
    """An SAE, frozen, that reads raw activations times `scale`; `name` is what an error calls it."""
    d_in, d_sae = plain.W_enc.shape
    norm = "unit" if bool(((plain.W_dec.norm(dim=1) - 1).abs() < 1e-5).all()) else "free"
    config = SAEConfig(d_in, d_sae, activation, 32 if k is None else k, norm, plain.pre_bias, prefixes)
    sae = SAE(config)
    tensors = plain.tensors()
    if "threshold" in tensors:  # below 0 it cuts nothing that ReLU leaves, and only from 0 on has it a logarithm
        threshold = tensors.pop("threshold").clamp_min(0)
        tensors |= {"log_threshold": threshold.log()} if activation == "jumprelu" else {"threshold": threshold}
    hub.fill(sae, tensors | {"mean": torch.zeros(d_in), "scale": torch.tensor(scale)}, name)
    sae.extra = extra
    return sae.requires_grad_(False)


def require_expressible(sae: SAE, valid: Iterable[str], name: str) -> None:
    """Refuse to write an SAE that the format `name` has no word for: its activation, or that it is told t.

    Prefixes are no reason: they say how an SAE was trained and not what it computes.
    """
    if sae.config.t_edges:
        raise SparsightError(
            f"this SAE is conditioned on the timestep (t_edges={list(sae.config.t_edges)}), which a {name} folder cannot "
            "hold: only a sparsight folder can"
        )
    if sae.config.activation not in valid:
        raise SparsightError(
            f"a {name} folder cannot hold an SAE with activation {sae.config.activation!r} (valid: {', '.join(valid)})"
        )
