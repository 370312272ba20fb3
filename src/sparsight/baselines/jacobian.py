"""Jacobians that are never written down: products with J and with its transpose, and their leading singular vectors.

Both products are reverse passes through one recorded forward pass: v -> J v is the derivative of u -> J' u, which is
linear in u. So no forward-mode rule is needed, which attention kernels lack.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from sparsight.concepts.paths import Add
from sparsight.diffusion.conditioning import Conditioning
from sparsight.diffusion.model import DiffusionModel


@dataclass(frozen=True)
class Linearised:
    """A function at a point, for a batch whose rows do not see each other: J is a block for each row.

    `point` (B, ...) and `value` (B, ...) are what went in and came out.
    """

    point: Tensor
    value: Tensor
    _cotangent: Tensor
    _pulled: Tensor

    @classmethod
    def of(cls, function: Callable[[Tensor], Tensor], point: Tensor) -> Self:
        """Record `function` at `point`; attention is computed by its plain formula, which can be derived twice."""
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            point = point.detach().clone().requires_grad_()
            value = function(point)
            cotangent = torch.zeros_like(value, requires_grad=True)
            (pulled,) = torch.autograd.grad(value, point, cotangent, create_graph=True)
        return cls(point, value, cotangent, pulled)

    def push(self, tangent: Tensor) -> Tensor:
        """J v for each row: `tangent` (B, ...) shaped like the point, the answer like the value."""
        (pushed,) = torch.autograd.grad(self._pulled, self._cotangent, tangent, retain_graph=True)
        return pushed

    def pull(self, cotangent: Tensor) -> Tensor:
        """J' u for each row: `cotangent` shaped like the value, the answer like the point."""
        (pulled,) = torch.autograd.grad(self.value, self.point, cotangent, retain_graph=True)
        return pulled


def site_of_state(
    model: DiffusionModel, site: str, x_t: Tensor, t: int, conditioning: Conditioning | None = None
) -> Linearised:
    """Tokens of a site as a function of the state: J = dh/dx_t at `x_t` (B, c, h, w).

    Of a text-to-image model, the tokens of the rows that see the prompt.
    """

    def tokens(x: Tensor) -> Tensor:
        return model.read(x, t, [site], conditioning).half(site, "cond").flatten(1)

    with in_fp32(model):
        return Linearised.of(tokens, x_t)


def noise_of_site(model: DiffusionModel, site: str, x_t: Tensor, t: int, region: Tensor | None = None) -> Linearised:
    """Predicted noise as a function of a site's tokens: J = d eps/dh at the tokens that `x_t` (B, c, h, w) has there.

    The point is the change of the tokens (B, N, C), 0. `region` (h, w) bool keeps the noise inside it alone (Haas et
    al.'s regional directions).
    """

    def eps(change: Tensor) -> Tensor:
        with model.edit([Add(site, change)]):
            noise = model.predict(x_t, t).eps
        return (noise if region is None else noise * region).flatten(1)

    with in_fp32(model):
        with torch.no_grad():
            tokens = model.read(x_t, t, [site])[site]
        return Linearised.of(eps, torch.zeros_like(tokens))


@contextmanager
def in_fp32(model: DiffusionModel) -> Iterator[None]:
    """Without autocast: a derivative in bf16 is mostly rounding."""
    precision, model.precision = model.precision, "fp32"
    try:
        yield
    finally:
        model.precision = precision


@torch.no_grad()
def subspace(
    at: Linearised, count: int, *, shared: bool = False, iterations: int = 50, tolerance: float = 1e-4, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """The `count` leading right singular vectors of each row's J, and their singular values, by subspace iteration.

    V <- orthonormal basis of J'J V until no vector turns by more than `tolerance`, or `iterations` times; then a
    singular value decomposition inside the subspace. Returns (B, count, ...) shaped like the point, and (B, count),
    largest first. With `shared` the rows have one basis in common, the leading eigenvectors of the mean of J'J: (1,
    count, ...), and the values are the roots of its eigenvalues.
    """
    generator = torch.Generator().manual_seed(seed)
    rows = 1 if shared else len(at.point)
    basis = _orthonormal(torch.randn(rows, count, at.point[0].numel(), generator=generator).to(at.point))
    for _ in range(iterations):
        before, basis = basis, _orthonormal(_gram(at, basis, shared))
        turned = 1 - (before * basis).sum(-1).abs()
        if float(turned.max()) < tolerance**2 / 2:  # the cosine of a small angle
            break
    small = basis @ _gram(at, basis, shared).transpose(1, 2)  # V J'J V'
    values, vectors = torch.linalg.eigh((small + small.transpose(1, 2)) / 2)
    turned_basis = vectors.flip(-1).transpose(1, 2) @ basis
    return turned_basis.reshape(rows, count, *at.point.shape[1:]), values.flip(-1).clamp_min(0).sqrt()


def _gram(at: Linearised, basis: Tensor, shared: bool) -> Tensor:
    """J'J v for every vector of a basis (rows, count, D), the mean over rows where they share it."""
    products = []
    for k in range(basis.shape[1]):
        vector = basis[:, k].expand(len(at.point), -1).reshape(at.point.shape)
        product = at.pull(at.push(vector)).flatten(1)
        products.append(product.mean(0, keepdim=True) if shared else product)
    return torch.stack(products, 1)


def _orthonormal(basis: Tensor) -> Tensor:
    """An orthonormal basis of the rows of (B, count, D), each turned as little as the order of the rows allows."""
    q, r = torch.linalg.qr(basis.transpose(1, 2))
    signs = torch.where(r.diagonal(dim1=1, dim2=2) < 0, -1.0, 1.0).to(basis)
    return (q * signs.unsqueeze(1)).transpose(1, 2)
