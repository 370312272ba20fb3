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
    """The gradient (B, d) that reaches the atoms of each block: that of all prefixes which contain it."""
    flows = [error * (2 / (error.numel() * len(errors))) for error in errors]
    for number in range(len(flows) - 2, -1, -1):
        flows[number].add_(flows[number + 1])
    return flows


def along_blocks(code: SparseCode, flows: list[Tensor], dec: Tensor, blocks: Blocks) -> Tensor:
    """The gradient of each entry's value, (nnz,)."""
    if len(blocks) == 1:
        return along(code, flows[0], dec)
    dz = torch.empty_like(code.values)
    for (low, high), flow in zip(blocks, flows, strict=True):
        part, mask = _block(code, low, high)
        dz[mask] = along(part, flow, dec[low:high])
    return dz


def atom_gradients(by: ByLatent, z: Tensor, flows: list[Tensor], blocks: Blocks, out: Tensor | None = None) -> Tensor:
    """The gradient of the decoder, (m, d); the entries of a block lie together in the order of the latents."""
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
