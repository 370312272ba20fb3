"""Activations: run a model over images, keep what its sites said (or do not), read it back shuffled."""

from sparsight.activations.harvest import HarvestConfig, Stream, harvest, harvest_part, harvest_streams
from sparsight.activations.live import LiveStore
from sparsight.activations.mixing import batch_entropy, ideal_entropy
from sparsight.activations.shuffle import TokenBatch
from sparsight.activations.source import TokenSource
from sparsight.activations.spec import StoreSpec
from sparsight.activations.store import Store
from sparsight.activations.writer import StoreWriter

__all__ = [
    "HarvestConfig", "LiveStore", "Store", "StoreSpec", "StoreWriter", "Stream", "TokenBatch", "TokenSource",
    "batch_entropy", "harvest", "harvest_part", "harvest_streams", "ideal_entropy",
]  # fmt: skip
