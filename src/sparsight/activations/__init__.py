"""Activations: run a model over images, keep what a site said, read it back shuffled."""

from sparsight.activations.harvest import HarvestConfig, Stream, harvest, harvest_streams
from sparsight.activations.shuffle import TokenBatch
from sparsight.activations.spec import StoreSpec
from sparsight.activations.store import Store
from sparsight.activations.writer import StoreWriter

__all__ = [
    "HarvestConfig", "Store", "StoreSpec", "StoreWriter", "Stream", "TokenBatch", "harvest", "harvest_streams",
]  # fmt: skip
