"""The sparse autoencoder: raw activations in, non-negative latents out, and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparsight.errors import SparsightError
from sparsight.sae import hub
from sparsight.sae.config import SAEConfig
from sparsight.sae.initial import initial_bias, initial_threshold
from sparsight.sae.sparsity import SparseCode, code_in_chunks
from sparsight.sae.variants import variant

Timestep = Tensor | int | None


class SAE(nn.Module):
    """z = act((h - b_dec) W_enc + b_enc + b_time[bin of t]), h_hat = z W_dec + b_dec, with h = (x - mean) * scale.

    Parameters: W_enc (d_in, d_sae), b_enc (d_sae,), W_dec (d_sae, d_in), b_dec (d_in,). Buffers: mean (d_in,) and
    scale (), the input statistics that make E|h|^2 = d_in; `encode` takes raw activations and `decode` returns them.
    W_enc is held column by column in memory, so that picking latents reads whole rows.

    Some have more: "jumprelu" log_threshold (d_sae,), "gated" r_mag and b_mag (d_sae,), "batchtopk" a buffer threshold
    (), and an SAE with `t_edges` b_time (bins, d_sae). Such an SAE must be told `t` wherever it encodes: one timestep,
    or one for each entry of the leading dimensions of x. The others do not read `t`.
    """

    mean: Tensor
    scale: Tensor
    threshold: Tensor

    def __init__(self, config: SAEConfig, seed: int = 0) -> None:
        super().__init__()
        self.config, self.extra = config, {}  # type: tuple[SAEConfig, dict[str, Any]]
        atoms = F.normalize(
            torch.randn(config.d_sae, config.d_in, generator=torch.Generator().manual_seed(seed)), dim=1
        )
        self.W_dec = nn.Parameter(atoms)
        self.W_enc = nn.Parameter(atoms.clone().t())
        self.b_enc = nn.Parameter(torch.full((config.d_sae,), initial_bias(config)))
        self.b_dec = nn.Parameter(torch.zeros(config.d_in))
        self.register_buffer("mean", torch.zeros(config.d_in))
        self.register_buffer("scale", torch.ones(()))
        self.variant = variant(config.activation, config.k)
        self._add_own()

    def _add_own(self) -> None:
        """The parameters that only some SAEs have; none draws a random number."""
        config = self.config
        if config.activation == "jumprelu":
            self.log_threshold = nn.Parameter(torch.full((config.d_sae,), initial_threshold(config)).log())
        if config.activation == "gated":
            self.r_mag = nn.Parameter(torch.zeros(config.d_sae))
            self.b_mag = nn.Parameter(self.b_enc.detach().clone())
        if config.activation == "batchtopk":
            self.register_buffer("threshold", torch.zeros(()))
        if config.t_edges:
            self.b_time = nn.Parameter(torch.zeros(len(config.t_edges) + 1, config.d_sae))

    @property
    def own(self) -> dict[str, nn.Parameter]:
        """The trained parameters that only some SAEs have, by name."""
        return {name: p for name, p in self.named_parameters() if name not in ("W_enc", "b_enc", "W_dec", "b_dec")}

    def bins(self, t: Tensor | int) -> Tensor:
        """The one-hot bin of each timestep: t (...) to (..., bins), in the dtype of the weights."""
        edges = torch.tensor(self.config.t_edges, device=self.mean.device)
        number = torch.bucketize(torch.as_tensor(t, device=self.mean.device), edges, right=True)
        return F.one_hot(number, len(edges) + 1).to(self.mean.dtype)

    def set_statistics(self, mean: Tensor, scale: float) -> None:
        """Set the input statistics: mean (d_in,) in raw units, and scale = sqrt(d_in / E|x - mean|^2)."""
        self.mean.copy_(mean)
        self.scale.fill_(scale)

    def normalise(self, x: Tensor) -> Tensor:
        """Raw activations (..., d_in) to h, in the dtype of the weights."""
        return (x.to(self.mean.dtype) - self.mean).mul_(self.scale)

    def denormalise(self, h: Tensor) -> Tensor:
        """The inverse of `normalise`."""
        return h / self.scale + self.mean

    def encode(self, x: Tensor, t: Timestep = None) -> Tensor:
        """Raw activations (..., d_in) to latents (..., d_sae) >= 0."""
        inputs, time = self._encoder_input(x, t)
        pre = inputs @ self.W_enc + self.b_enc
        return self.variant.dense(pre if time is None else pre + time @ self.b_time, self._latents())

    def encode_latents(self, x: Tensor, latents: Tensor | list[int], t: Timestep = None) -> Tensor:
        """Only the chosen latents, (..., len(latents)): `encode(x, t)[..., latents]`.

        Nothing else is computed, save by TopK, which has to see all latents to know which survive.
        """
        index = torch.as_tensor(latents, device=self.W_enc.device)
        if not self.variant.alone:
            return self.encode(x, t)[..., index]
        inputs, time = self._encoder_input(x, t)
        pre = inputs @ self.W_enc.t()[index].t() + self.b_enc[index]
        chosen = {name: value[index] if value.ndim else value for name, value in self._latents().items()}
        return self.variant.dense(pre if time is None else pre + time @ self.b_time[:, index], chosen)

    def encode_sparse(self, x: Tensor, t: Timestep = None) -> SparseCode:
        """Raw activations of T tokens, (..., d_in), to their codes without the zeros."""
        inputs, time = self._encoder_input(x, t)
        rows = (inputs if time is None else torch.cat([inputs, time], -1)).flatten(0, -2)
        return code_in_chunks(rows, self.config.d_sae, self._code)

    def decode(self, z: Tensor | SparseCode) -> Tensor:
        """Latents (..., d_sae), or the sparse code of T tokens, to activations (..., d_in) in raw units."""
        product = z.matmul(self.W_dec) if isinstance(z, SparseCode) else z @ self.W_dec
        return self.denormalise(product + self.b_dec)

    def forward(self, x: Tensor, t: Timestep = None) -> Tensor:
        """The reconstruction of raw activations (..., d_in)."""
        return self.decode(self.encode_sparse(x, t)).reshape(x.shape)

    def save_pretrained(self, folder: Path | str, extra: dict[str, Any] | None = None) -> None:
        """Write config.json, model.safetensors and README.md; `extra` (JSON-able) is added to what the SAE carries."""
        hub.save(self, Path(folder), self.extra | (extra or {}))

    @classmethod
    def from_pretrained(
        cls, name_or_path: Path | str, subfolder: str | None = None, revision: str | None = None
    ) -> SAE:
        """Load from a folder or a Hub repository, frozen: its parameters ask for no gradient.

        Raises `SparsightError` for unknown or missing fields, for missing or unexpected tensors, and for wrong shapes.
        """
        values, tensors = hub.load(str(name_or_path), subfolder, revision)
        extra = values.pop("extra")
        sae = cls(SAEConfig(**values))
        sae.extra = extra
        hub.fill(sae, tensors, str(name_or_path))
        return sae.requires_grad_(False)

    def push_to_hub(self, repo_id: str, subfolder: str | None = None, private: bool = False) -> str:
        """Upload to the Hub (creating the repository if needed) and return the address of the commit."""
        return hub.push(self, repo_id, subfolder, private)

    def _encoder_input(self, x: Tensor, t: Timestep) -> tuple[Tensor, Tensor | None]:
        """What the encoder reads: (..., d_in), and the one-hot bin of t (..., bins) if the SAE is told t."""
        if x.shape[-1] != self.config.d_in:
            raise SparsightError(f"this SAE reads {self.config.d_in} channels, but the activations have {x.shape[-1]}")
        h = self.normalise(x)
        return (h - self.b_dec if self.config.pre_bias else h), self._time(x, t)

    def _time(self, x: Tensor, t: Timestep) -> Tensor | None:
        if not self.config.t_edges:
            return None
        if t is None:
            raise SparsightError("this SAE is conditioned on the timestep: say t when you encode")
        when, leading = torch.as_tensor(t), x.shape[:-1]
        if when.shape != leading[: when.ndim]:
            raise SparsightError(f"t has shape {tuple(when.shape)}, but the activations are {tuple(leading)} tokens")
        bins = self.bins(when)
        return bins.reshape(*when.shape, *[1] * (len(leading) - when.ndim), -1).expand(*leading, -1)

    def _latents(self) -> dict[str, Tensor]:
        shared = {"threshold": self.threshold} if self.config.activation == "batchtopk" else {}
        return {"b_enc": self.b_enc, **{n: getattr(self, n) for n in self.variant.own}, **shared}

    def _code(self, rows: Tensor) -> SparseCode:
        pre = torch.addmm(self.b_enc, rows[:, : self.config.d_in], self.W_enc)
        if self.config.t_edges:
            pre = pre.addmm(rows[:, self.config.d_in :], self.b_time)
        return self.variant.entries(pre, self._latents())


SparseAutoencoder = SAE  # the same class under its long name
