"""Activations of a site: harvested from a model, stored on disk, read back shuffled."""

from sparsight.activations.reader import TokenBatch
from sparsight.activations.store import Shard, Store, StoreSpec, StoreWriter

__all__ = ["Shard", "Store", "StoreSpec", "StoreWriter", "TokenBatch"]
