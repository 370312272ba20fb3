"""An SAE whose latents are divided among several cards, for one that is larger than each of them.

PyTorch's DTensor does the work: W_enc and W_dec are cut along the latents and never gathered, every rank sees all tokens,
and the products say what has to travel. The step is `reference_loss` under autograd, in dense algebra: the sparse kernels
of `train_sae` do not take DTensors.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.experimental import implicit_replication

from sparsight.errors import SparsightError
from sparsight.sae.model import SAE, Timestep
from sparsight.sae.reference import reference_loss
from sparsight.sae.rule import Rule, Weights

LATENT_DIMENSION = {"W_enc": 1, "b_time": 1, "b_dec": None}  # of the parameters; it is 0 in all others


class ShardedSAE(nn.Module):
    """`sae`, with its latents on the ranks of a one-dimensional `mesh`, d_sae / N on each.

    Every rank must hold the same `sae` on the CPU to begin with, and call every method with the same tokens. The
    parameters are DTensors that any optimiser of torch takes. Raises `SparsightError` if N does not divide d_sae.
    """

    def __init__(self, sae: SAE, mesh: DeviceMesh) -> None:
        super().__init__()
        if mesh.ndim != 1 or sae.config.d_sae % mesh.size():
            raise SparsightError(f"{sae.config.d_sae} latents cannot be divided equally among {mesh.size()} processes")
        self.mesh, self.sae = mesh, sae
        for name, parameter in list(sae.named_parameters()):
            sae.register_parameter(name, nn.Parameter(_cut(name, parameter.detach(), mesh)))
        for name, buffer in list(sae.named_buffers()):
            sae.register_buffer(name, buffer.to(mesh.device_type))

    def encode(self, x: Tensor, t: Timestep = None) -> DTensor:
        """Raw activations (..., d_in) to latents (..., d_sae), of which each rank holds its own.

        `.to_local()` are those (..., d_sae / N), `.full_tensor()` all. TopK compares all latents: it gathers the
        pre-activations of these tokens on every rank for the moment.
        """
        with implicit_replication():
            z: Any = self.sae.encode(x, t)
            return z.redistribute(self.mesh, [Shard(z.ndim - 1)])

    def decode(self, z: DTensor) -> Tensor:
        """Latents as `encode` gives them to activations (..., d_in), whole on every rank."""
        with implicit_replication():
            return _whole(self.sae.decode(z))

    def forward(self, x: Tensor, t: Timestep = None) -> Tensor:
        """The reconstruction of raw activations (..., d_in)."""
        return self.decode(self.encode(x, t))

    def backward(self, x: Tensor, rule: Rule, dead: Tensor | None = None, t: Tensor | None = None) -> Tensor:
        """The training loss () of raw tokens (B, d_in) with their t (B,); adds its gradient to that of every parameter.

        AuxK acts where `dead` (d_sae,) is true. The loss is `reference_loss`, which holds (B, d_sae / N) tensors on each
        rank, for "topk" and "batchtopk" (B, d_sae).
        """
        sae, time = self.sae, None if t is None or not self.sae.config.t_edges else self.sae.bins(t)
        with implicit_replication():
            own: dict[str, Tensor] = dict(sae.own)
            weights = Weights(sae.W_enc.t(), sae.b_enc, sae.W_dec, sae.b_dec)
            loss = reference_loss(sae.normalise(x), weights, rule, dead, own, time)
            loss.backward()  # in here, for it meets the tokens again
            return _whole(loss.detach())

    @torch.no_grad()
    def unit_atoms(self) -> None:
        """Give every atom length 1 again, after a step of an SAE with `decoder_norm` "unit"."""
        self.sae.W_dec.div_(self.sae.W_dec.norm(dim=1, keepdim=True))

    def save_pretrained(self, folder: Path | str) -> None:
        """Write the folder that `SAE.from_pretrained` reads; rank 0 does, and holds the SAE in its main memory for it."""
        whole = {name: _on_cpu(value, self.mesh) for name, value in self.sae.state_dict().items()}
        if self.mesh.get_local_rank() == 0:
            sae = SAE(self.sae.config)
            sae.load_state_dict(whole)
            sae.extra = self.sae.extra
            sae.save_pretrained(folder)
        dist.barrier(self.mesh.get_group())


def _cut(name: str, value: Tensor, mesh: DeviceMesh) -> DTensor:
    dimension = LATENT_DIMENSION.get(name, 0)
    placement = Replicate() if dimension is None else Shard(dimension)
    return distribute_tensor(value, mesh, [placement], src_data_rank=None)  # every rank has it already


def _whole(x: Any) -> Tensor:
    return x.full_tensor() if isinstance(x, DTensor) else x


def _on_cpu(value: Tensor, mesh: DeviceMesh) -> Tensor:
    """A parameter put together in main memory: a card never holds more than its own part and one other."""
    if not isinstance(value, DTensor):
        return value.cpu()
    (placement,), mine = value.placements, value.to_local().contiguous()
    if not isinstance(placement, Shard):
        return mine.cpu()
    return torch.cat(list(_parts(mine, mesh)), placement.dim)


def _parts(mine: Tensor, mesh: DeviceMesh) -> Iterator[Tensor]:
    group = mesh.get_group()
    for number in range(mesh.size()):
        part = mine if number == mesh.get_local_rank() else torch.empty_like(mine)
        dist.broadcast(part, group=group, group_src=number)
        yield part.cpu()
