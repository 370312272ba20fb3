"""What a run's earlier stages wrote, opened and checked."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sparsight.activations import Store
from sparsight.concepts import Alignment
from sparsight.errors import SparsightError
from sparsight.sae import SAE

if TYPE_CHECKING:
    from sparsight.pipeline.casl.run import CaslRun


def open_store(run: CaslRun) -> Store:
    """The run's store, checked against its model and site."""
    store = Store.open(run.folder / "store", verify=False)
    store.require(model_hash=run.model.fingerprint(), site=run.recipe.harvest.site)
    return store


def open_sae(run: CaslRun) -> SAE:
    """The run's SAE."""
    return SAE.from_pretrained(run.folder / "sae")


def concept_folder(run: CaslRun, name: str) -> Path:
    """Where a concept's files are."""
    return run.folder / "concepts" / name


def open_alignment(run: CaslRun, name: str, basis: str = "latents") -> Alignment:
    """A concept's alignment, on latents or on channels."""
    folder = concept_folder(run, name) / ("alignment" if basis == "latents" else "alignment_no_sae")
    if not folder.exists():
        raise SparsightError(f"{run.folder} holds no alignment of {name!r}: run the stage align first")
    return Alignment.load(folder)
