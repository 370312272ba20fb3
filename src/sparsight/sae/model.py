"""The sparse autoencoder: raw activations in, non-negative latents out, and back."""

from __future__ import annotations

from pathlib import Path
from statistics import NormalDist
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparsight.errors import SparsightError
from sparsight.sae import hub
from sparsight.sae.config import SAEConfig
from sparsight.sae.sparsity import SparseCode, code_in_chunks, relu_code, topk, topk_code


class SAE(nn.Module):
    """z = act((h - b_dec) W_enc + b_enc), h_hat = z W_dec + b_dec, with h = (x - mean) * scale.

    Parameters: W_enc (d_in, d_sae), b_enc (d_sae,), W_dec (d_sae, d_in), b_dec (d_in,). Buffers: mean (d_in,) and
    scale (), the input statistics that make E|h|^2 = d_in; `encode` takes raw activations and `decode` returns them.
    W_enc is held column by column in memory, so that picking latents reads whole rows.
    """

    mean: Tensor
    scale: Tensor

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

    def set_statistics(self, mean: Tensor, scale: float) -> None:
        """Set the input statistics: mean (d_in,) in raw units, and scale = sqrt(d_in / E|x - mean|^2)."""
        self.mean.copy_(mean)
        self.scale.fill_(scale)

    def normalise(self, x: Tensor) -> Tensor:
        """Raw activations (..., d_in) to h, in the dtype of the weights."""
        return (x.to(self.mean.dtype) - self.mean) * self.scale

    def denormalise(self, h: Tensor) -> Tensor:
        """The inverse of `normalise`."""
        return h / self.scale + self.mean

    def encode(self, x: Tensor) -> Tensor:
        """Raw activations (..., d_in) to latents (..., d_sae) >= 0."""
        pre = self._encoder_input(x) @ self.W_enc + self.b_enc
        return pre.relu() if self.config.activation == "relu" else topk(pre, self.config.k)

    def encode_latents(self, x: Tensor, latents: Tensor | list[int]) -> Tensor:
        """Only the chosen latents, (..., len(latents)): `encode(x)[..., latents]`.

        ReLU computes nothing else; TopK has to see all latents to know which survive.
        """
        index = torch.as_tensor(latents, device=self.W_enc.device)
        if self.config.activation == "topk":
            return self.encode(x)[..., index]
        return (self._encoder_input(x) @ self.W_enc.t()[index].t() + self.b_enc[index]).relu()

    def encode_sparse(self, x: Tensor) -> SparseCode:
        """Raw activations of T tokens, (..., d_in), to their codes without the zeros."""
        return code_in_chunks(self._encoder_input(x).reshape(-1, self.config.d_in), self.config.d_sae, self._code)

    def decode(self, z: Tensor | SparseCode) -> Tensor:
        """Latents (..., d_sae), or the sparse code of T tokens, to activations (..., d_in) in raw units."""
        product = z.matmul(self.W_dec) if isinstance(z, SparseCode) else z @ self.W_dec
        return self.denormalise(product + self.b_dec)

    def forward(self, x: Tensor) -> Tensor:
        """The reconstruction of raw activations (..., d_in)."""
        return self.decode(self.encode_sparse(x)).reshape(x.shape)

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

    def _encoder_input(self, x: Tensor) -> Tensor:
        if x.shape[-1] != self.config.d_in:
            raise SparsightError(f"this SAE reads {self.config.d_in} channels, but the activations have {x.shape[-1]}")
        h = self.normalise(x)
        return h - self.b_dec if self.config.pre_bias else h

    def _code(self, rows: Tensor) -> SparseCode:
        pre = torch.addmm(self.b_enc, rows, self.W_enc)
        return relu_code(pre) if self.config.activation == "relu" else topk_code(pre, self.config.k)


SparseAutoencoder = SAE  # the same class under its long name


def initial_bias(config: SAEConfig) -> float:
    """The encoder bias at which a fresh ReLU SAE with tied random atoms reconstructs its input on average.

    For |h|^2 = d_in and random unit atoms w, h.w is standard normal whatever the data, and
    E[sum w ReLU(h.w - b)] = (d_sae / d_in) P(N > b) h: so P(N > b) = d_in / d_sae. It starts with L0 = d_in, a good
    picture, and a sparse (hence fast) first step, where b = 0 would overshoot d_sae / (2 d_in) times.
    """
    if config.activation != "relu" or config.d_sae <= 2 * config.d_in:
        return 0.0
    return NormalDist().inv_cdf(config.d_in / config.d_sae)
