"""Activations: run a model over images or prompts, keep what its sites said (or do not), read it back shuffled."""

from sparsight.activations.config import prompt_streams
from sparsight.activations.harvest import (
    HarvestConfig,
    PromptStream,
    Stream,
    harvest,
    harvest_part,
    harvest_streams,
)  # fmt: skip
from sparsight.activations.live import LiveStore
from sparsight.activations.mixing import batch_entropy, ideal_entropy
from sparsight.activations.shuffle import TokenBatch
from sparsight.activations.source import TokenSource
from sparsight.activations.spec import StoreSpec
from sparsight.activations.store import Store
from sparsight.activations.visit import start_noise
from sparsight.activations.writer import StoreWriter

__all__ = [
    "HarvestConfig", "LiveStore", "PromptStream", "Store", "StoreSpec", "StoreWriter", "Stream", "TokenBatch", "TokenSource",
    "batch_entropy", "harvest", "harvest_part", "harvest_streams", "ideal_entropy", "prompt_streams", "start_noise",
]  # fmt: skip
