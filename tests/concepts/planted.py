"""Codes and annotations whose answers are known, or computed again densely and slowly."""

import torch
import torch.nn.functional as F

from sparsight.concepts.annotation import Annotation
from sparsight.sae.sparsity import SparseCode

LABELS = ["cat", "dog", "car", "red car", "tree"]


def code_of(maps):
    """The code of dense maps (images, latents, h, w)."""
    tokens = maps.permute(0, 2, 3, 1).flatten(0, 2)
    active = tokens > 0
    return SparseCode(active.nonzero()[:, 1], tokens[active], F.pad(active.sum(1).cumsum(0), (1, 0)))


def rectangle(size, top, left, height, width):
    mask = torch.zeros(size, dtype=torch.bool)
    mask[top : top + height, left : left + width] = True
    return mask


def random_objects(generator, size, most=4):
    def draw(high):
        return int(torch.randint(high, (), generator=generator))

    objects = []
    for _ in range(draw(most + 1)):
        height, width = 1 + draw(size[0]), 1 + draw(size[1])
        mask = rectangle(size, draw(size[0] - height + 1), draw(size[1] - width + 1), height, width)
        objects.append(Annotation.of(LABELS[draw(len(LABELS))], mask))
    return objects


def random_case(seed, images=6, latents=9, grid=(4, 5), size=(16, 25)):
    """Maps of blobs, of constants and of noise, and objects: IoUs of every size occur."""
    generator = torch.Generator().manual_seed(seed)
    maps = torch.rand(images, latents, *grid, generator=generator)
    maps[:, 0] = 0.7  # constant
    maps[:, 1] += 0.5  # active everywhere
    maps[:, 2] = 0  # dead
    objects = [random_objects(generator, size) for _ in range(images)]
    for image, own in enumerate(objects):
        for latent, found in zip(range(3, latents), own, strict=False):  # maps that follow a mask, more or less
            small = F.adaptive_avg_pool2d(found.mask[None].float(), grid)[0]
            maps[image, latent] = (small * (0.5 + maps[image, latent])) * (small > 0.3)
    maps[:, -1] *= maps[:, -1] > 0.8
    return maps, objects


def upsampled(maps, size):
    """Nearest neighbour, pixel by pixel."""
    height, width = maps.shape[-2:]
    rows = [y * height // size[0] for y in range(size[0])]
    columns = [x * width // size[1] for x in range(size[1])]
    return maps[..., rows, :][..., columns]


def iou(a, b):
    return float((a & b).sum()) / max(1.0, float((a | b).sum()))
