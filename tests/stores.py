"""Small stores and pictures that the tests of activations share."""

import torch

from sparsight.activations import StoreSpec, StoreWriter

SPEC = StoreSpec("mid_block", "output", 3, (2, 2), "toy", "abc", "fp32", (500, 900), "noise")


class Pictures:
    """Random images of 8x8; `drawn` notes which were asked for."""

    name = "random"

    def __init__(self, count=5):
        self.count, self.drawn = count, []

    def __len__(self):
        return self.count

    def batch(self, numbers):
        self.drawn += list(numbers)
        return torch.stack([torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(n)) * 2 - 1 for n in numbers])


def fill(folder, units=4, maps=6, spec=SPEC, **extra):
    """A store whose token (map, position) holds its own number in every channel."""
    writer = StoreWriter(folder, spec)
    for unit in range(units):
        number = torch.arange(unit * maps * 4, (unit + 1) * maps * 4).float()
        image = torch.arange(maps) // 2 + unit * (maps // 2)
        t = torch.tensor(spec.timesteps)[torch.arange(maps) % 2]
        writer.write(unit, number.view(maps, 4, 1).expand(-1, -1, 3), image, t, **extra)
    return writer.finish()
