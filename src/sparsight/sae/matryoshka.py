"""Matryoshka: every prefix of the dictionary must reconstruct by itself (Bussmann et al. 2025, "Learning multi-level
features with Matryoshka SAEs", eq. 4; here the mean over prefixes, so that lambda and lr keep their meaning).

It stands on top of any activation: the code is made once, from all latents. A latent's gradient comes from every prefix
that contains it, so prefixes are handled as blocks of latents, each with the summed gradient of the prefixes that reach
it. The work grows with the entries and with (B, d) maps for each prefix, never with prefixes times entries.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from sparsight.sae.pattern import ByLatent, along
from sparsight.sae.sparsity import SparseCode

Blocks = list[tuple[int, int]]


def blocks_of(prefixes: tuple[int, ...], d_sae: int) -> Blocks:
    """The ranges of latents that each prefix adds; the whole dictionary is always the last prefix."""
    return list(pairwise(sorted({0, *prefixes, d_sae})))


def prefix_errors(code: SparseCode, x: Tensor, dec: Tensor, b_dec: Tensor, blocks: Blocks) -> list[Tensor]:
    """x_hat - x (B, d) of each prefix, the whole dictionary's last."""
    if len(blocks) == 1:
        return [code.matmul(dec).add_(b_dec).sub_(x)]
    errors, running = [], b_dec - x
    for low, high in blocks:
        running = _block(code, low, high)[0].matmul(dec[low:high]).add_(running)
        errors.append(running)
    return errors


def block_flows(errors: list[Tensor]) -> list[Tensor]:
    """What reaches the atoms of each block: the summed error (B, d) of all prefixes which contain it.

    The gradient is that times 2 / (B d prefixes), which is left to what is smaller than (B, d).
    """
    flows = errors[-1:]
    for error in reversed(errors[:-1]):
        flows.insert(0, error + flows[0])
    return flows


def along_blocks(code: SparseCode, flows: list[Tensor], dec: Tensor, blocks: Blocks) -> Tensor:
    """The product of each entry's flow and its atom, (nnz,)."""
    if len(blocks) == 1:
        return along(code, flows[0], dec)
    dz = torch.empty_like(code.values)
    for (low, high), flow in zip(blocks, flows, strict=True):
        part, mask = _block(code, low, high)
        dz[mask] = along(part, flow, dec[low:high])
    return dz


def atom_gradients(by: ByLatent, z: Tensor, flows: list[Tensor], blocks: Blocks, out: Tensor | None = None) -> Tensor:
    """The sum of z (nnz,) times the flow for each latent, (m, d).

    The entries of a block lie together in the order of the latents.
    """
    if len(blocks) == 1:
        return by.sum(z, flows[0], out)
    parts, values = [], z[by.order]
    for (low, high), flow in zip(blocks, flows, strict=True):
        ends = by.offsets[low : high + 1]
        inside = slice(int(ends[0]), int(ends[-1]))
        parts.append(SparseCode(by.tokens[inside], values[inside], ends - ends[0]).matmul(flow))
    return torch.cat(parts)


def _block(code: SparseCode, low: int, high: int) -> tuple[SparseCode, Tensor]:
    mask = (code.indices >= low) & (code.indices < high)
    part = code.where(mask)
    return part._replace(indices=part.indices - low), mask
