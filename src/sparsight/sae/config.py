"""What an SAE is, and how it is trained: two frozen records that refuse what cannot work."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

from sparsight.errors import SparsightError, unknown

ACTIVATIONS = ("relu", "topk", "batchtopk", "jumprelu", "gated")
DECODER_NORMS = ("unit", "free")
INITS = ("tied", "data")
REVIVED = {"relu": "revive_every", "topk": "aux_k", "batchtopk": "aux_k"}  # the others may use either
LATER = ("prefixes", "t_edges", "init", "bandwidth", "threshold_decay")  # fields that earlier versions did not write


def _check_choices(config: Any) -> None:
    """Refuse what no SAE can be, and make tuples of the lists that JSON and YAML hold."""
    if config.activation not in ACTIVATIONS:
        raise unknown("activation", config.activation, ACTIVATIONS)
    if config.decoder_norm not in DECODER_NORMS:
        raise unknown("decoder norm", config.decoder_norm, DECODER_NORMS)
    for name in ("prefixes", "t_edges"):
        values = getattr(config, name)
        whole = isinstance(values, list | tuple) and all(isinstance(value, int) for value in values)
        if not whole or list(values) != sorted(set(values)):
            raise SparsightError(f"{name} must be a list of increasing whole numbers, not {values!r}")
        object.__setattr__(config, name, tuple(values))


def without_later_defaults(kind: type, values: dict[str, Any]) -> dict[str, Any]:
    """Drop from a config's plain values the `LATER` fields at their default, so that digests of old configs still hold."""
    defaults = {field.name: field.default for field in fields(kind)}
    plain = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    return {name: value for name, value in values.items() if name not in LATER or plain[name] != defaults[name]}


def check_fields(kind: type, values: dict[str, Any]) -> None:
    """Refuse names that are no field of the dataclass `kind`."""
    valid = [field.name for field in fields(kind)]
    for name in values:
        if name not in valid:
            raise unknown(f"{kind.__name__} field", name, valid)


@dataclass(frozen=True)
class SAEConfig:
    """The shape and the rule of an SAE.

    `d_in` channels and `d_sae` latents; `activation` "relu" (z = ReLU(W h + b)), "topk" (ReLU, then the `k` largest of a
    token), "batchtopk" (`k` a token on average: ReLU, then what exceeds a saved threshold), "jumprelu" (a threshold for
    each latent) or "gated"; `decoder_norm` "unit" (atoms of length 1) or "free"; `pre_bias`: subtract b_dec before
    encoding. `prefixes` are the sizes at which a Matryoshka dictionary was also trained to reconstruct (none: an
    ordinary one). `t_edges` cut the timesteps into len + 1 bins, each with an encoder bias of its own (none: the SAE
    does not know t): bin i holds edge i - 1 <= t < edge i.
    """

    d_in: int
    d_sae: int
    activation: str = "relu"
    k: int = 32
    decoder_norm: str = "unit"
    pre_bias: bool = True
    prefixes: tuple[int, ...] = ()
    t_edges: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        _check_choices(self)
        for name in ("d_in", "d_sae", "k"):
            if not isinstance(getattr(self, name), int):
                raise SparsightError(f"{name} must be a whole number, not {getattr(self, name)!r}")
        if min(self.d_in, self.d_sae) < 1:
            raise SparsightError(f"an SAE needs a channel and a latent at least, not {self.d_in} and {self.d_sae}")
        if self.activation in ("topk", "batchtopk") and not 1 <= self.k <= self.d_sae:
            raise SparsightError(f"k must lie between 1 and d_sae = {self.d_sae}, not {self.k}")
        if self.prefixes and not 1 <= self.prefixes[0] <= self.prefixes[-1] <= self.d_sae:
            raise SparsightError(f"prefixes must lie between 1 and d_sae = {self.d_sae}, not {list(self.prefixes)}")


@dataclass(frozen=True)
class TrainConfig:
    """How to train an SAE. Defaults follow the CASL paper where it says something.

    Size: `d_sae`, or `expansion` (gamma) times the channels. Loss: mean-over-channels MSE in normalised units
    + `sparsity` (lambda) * a penalty, lambda rising linearly over `sparsity_warmup` steps. The penalty is the mean over
    latents of |z| for "relu", of the open gate for "gated", of 1[z > 0] for "jumprelu" (whose step has the straight-
    through `bandwidth`, in units of the pre-activation); "topk" and "batchtopk" have none. With `prefixes` the MSE is
    the mean over prefixes (Matryoshka). "batchtopk" averages its threshold over about 1 / (1 - `threshold_decay`) steps.
    The rate `lr` rises over `lr_warmup` steps and falls to 0 over the last `lr_decay`.

    `init`: encoder and decoder start as the same random directions ("tied"), or as directions of tokens ("data").

    A latent is dead after `dead_after` tokens without firing. AuxK: the `aux_k` best dead ones explain the residual
    (weight `aux_coefficient`; 0 = off); all but "relu". Resampling: every `revive_every` steps (0 = off) dead latents are
    moved onto badly reconstructed tokens; all but "topk" and "batchtopk".

    `amp` runs the encoder product in bf16. Codes of a density above `dense_above` are trained with dense products.
    `device` is "auto" or a torch device. `memory_mb` bounds the reader's buffer. Every `validate_every` steps (0 =
    never) `validation_tokens` held-out tokens are scored.
    """

    d_sae: int | None = None
    expansion: float = 128.0
    activation: str = "relu"
    k: int = 32
    decoder_norm: str = "unit"
    pre_bias: bool = True
    steps: int = 10_000
    batch_size: int = 4096
    lr: float = 3e-4
    beta1: float = 0.9
    beta2: float = 0.999
    lr_warmup: int = 200
    lr_decay: int = 2000
    sparsity: float = 32.0
    sparsity_warmup: int = 500
    aux_k: int = 0
    aux_coefficient: float = 1 / 32
    revive_every: int = 0
    dead_after: int = 10_000_000
    seed: int = 0
    amp: bool = False
    dense_above: float = 0.08
    device: str = "auto"
    memory_mb: float = 256
    checkpoint_every: int = 1000
    log_every: int = 10
    validate_every: int = 0
    validation_tokens: int = 8192
    prefixes: tuple[int, ...] = ()
    t_edges: tuple[int, ...] = ()
    init: str = "tied"
    bandwidth: float = 0.05
    threshold_decay: float = 0.99

    def __post_init__(self) -> None:
        _check_choices(self)
        for name in ("steps", "batch_size", "log_every", "validation_tokens", "dead_after"):
            if getattr(self, name) < 1:
                raise SparsightError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("lr_warmup", "lr_decay", "sparsity_warmup", "aux_k", "revive_every", "checkpoint_every"):
            if getattr(self, name) < 0:
                raise SparsightError(f"{name} must not be negative: {getattr(self, name)}")
        for name in ("lr", "expansion", "memory_mb", "bandwidth"):
            if not 0 < getattr(self, name) < math.inf:
                raise SparsightError(f"{name} must be a positive number, not {getattr(self, name)}")
        for name in ("sparsity", "aux_coefficient", "validate_every", "dense_above"):
            if not 0 <= getattr(self, name) < math.inf:
                raise SparsightError(f"{name} must be zero or a positive number, not {getattr(self, name)}")
        if self.init not in INITS:
            raise unknown("init", self.init, INITS)
        if not 0 <= self.threshold_decay < 1:
            raise SparsightError(f"threshold_decay must lie in [0, 1), not {self.threshold_decay}")
        only = REVIVED.get(self.activation)
        for name in ("aux_k", "revive_every"):
            if getattr(self, name) and only not in (None, name):
                raise SparsightError(f"{name} does not work with activation {self.activation!r}; use {only}")

    def sae_config(self, d_in: int) -> SAEConfig:
        """The SAE that this training makes from `d_in` channels."""
        d_sae = self.d_sae if self.d_sae is not None else round(self.expansion * d_in)
        shape = (self.activation, self.k, self.decoder_norm, self.pre_bias, self.prefixes, self.t_edges)
        return SAEConfig(d_in, d_sae, *shape)

    def lr_at(self, step: int) -> float:
        """The learning rate of step 1 ... `steps`."""
        rise = step / self.lr_warmup if step < self.lr_warmup else 1.0
        left = self.steps - step + 1
        return self.lr * min(rise, left / self.lr_decay if left < self.lr_decay else 1.0)

    def sparsity_at(self, step: int) -> float:
        """Lambda at step 1 ... `steps`; 0 for "topk" and "batchtopk"."""
        if self.activation in ("topk", "batchtopk"):
            return 0.0
        return self.sparsity * (step / self.sparsity_warmup if step < self.sparsity_warmup else 1.0)
