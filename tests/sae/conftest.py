"""Small stores with a known dictionary."""

import pytest
import torch

from sparsight.activations import StoreSpec, StoreWriter


def planted_store(folder, atoms=12, channels=8, images=24, seed=0):
    """Tokens that are sparse positive sums of `atoms` directions, around a large mean."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.nn.functional.normalize(torch.randn(atoms, channels, generator=generator), dim=1)
    writer = StoreWriter(folder, StoreSpec("mid_block", "output", channels, (4, 4), "toy", "h", "fp32", (1, 2), "x"))
    for unit in range(3):
        shape = (images // 3, 16, atoms)
        z = torch.rand(shape, generator=generator) * (torch.rand(shape, generator=generator) < 0.15)
        image = torch.arange(images // 3) + unit * (images // 3)
        writer.write(unit, z @ directions + 5, image, 1 + image % 2)
    return writer.finish()


@pytest.fixture(scope="session")
def store(tmp_path_factory):
    return planted_store(tmp_path_factory.mktemp("planted"))


@pytest.fixture(autouse=True)
def one_thread():
    """Steps this small lose far more to waiting for a second thread than they gain from it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
