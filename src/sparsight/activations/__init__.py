"""Activations: run a model over images, keep what a site said, read it back shuffled."""

from sparsight.activations.harvest import HarvestConfig, harvest
from sparsight.activations.reader import TokenBatch
from sparsight.activations.store import Store, StoreSpec, StoreWriter

__all__ = ["HarvestConfig", "Store", "StoreSpec", "StoreWriter", "TokenBatch", "harvest"]
