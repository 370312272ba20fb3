"""The stages of a run, in order. Each reads what the ones before it wrote, and writes into the run folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import islice

from torch import Tensor

from sparsight.activations import Store
from sparsight.activations.harvest import harvest
from sparsight.concepts import align, choose
from sparsight.files import write_json
from sparsight.pipeline.casl.evaluate import evaluate_stage
from sparsight.pipeline.casl.latents import write_probes
from sparsight.pipeline.casl.openers import concept_folder, open_sae, open_store
from sparsight.pipeline.casl.run import CaslRun
from sparsight.pipeline.casl.steer import steer_stage
from sparsight.sae import evaluate_sae, train_sae


def harvest_stage(run: CaslRun) -> None:
    """Images of the split "harvest" to `store/`."""
    numbers = run.train_numbers + run.held_out_numbers
    folder = run.own_folder("store", "harvest")
    harvest(
        run.model, run.world.source("harvest"), folder, run.recipe.harvest, numbers=numbers, progress=run.report.update
    )


def train_stage(run: CaslRun) -> None:
    """The SAE to `sae/`, with its metrics on held-out images."""
    folder = run.own_folder("sae", "train")
    store = open_store(run)

    def progress(step: int, total: int, metrics: Mapping[str, float]) -> None:
        run.report.update(step, total, f"fve {metrics.get('fve', 0):.3f}  L0 {metrics.get('l0', 0):.0f}")

    sae = train_sae(
        store,
        replace(run.recipe.sae, seed=run.recipe.seed),
        folder,
        progress,
        images=run.train_numbers,
        validation=run.held_out_numbers,
    )
    metrics = evaluate_sae(sae, _tokens(store, run.held_out_numbers))
    write_json(folder / "metrics.json", {"expansion": sae.config.d_sae / sae.config.d_in, **metrics})


def align_stage(run: CaslRun) -> None:
    """One alignment per concept to `concepts/NAME/`, with its probe."""
    store, sae = open_store(run), open_sae(run)
    concepts = choose(run.recipe.concepts, run.world.concepts)

    def progress(done: int, total: int, losses: Mapping[str, float]) -> None:
        run.report.update(done, total, f"loss {sum(losses.values()) / len(losses):.3f}")

    config = replace(run.recipe.align, seed=run.recipe.seed)
    found = align(
        run.model, sae, store, run.world.source("harvest"), concepts, run.world.clip, config,
        without_sae=True, numbers=run.train_numbers, progress=progress,
    )  # fmt: skip
    for (name, basis), alignment in found.items():
        alignment.extra = {"model_hash": run.model.fingerprint(), "store": store.digest}
        alignment.save(concept_folder(run, name) / ("alignment" if basis == "latents" else "alignment_no_sae"))
    for concept in concepts:
        write_probes(run, store, sae, concept)


def report_stage(run: CaslRun) -> None:
    """`report.html`."""
    from sparsight.report import write_report

    write_report(run.folder)


def _tokens(store: Store, numbers: list[int], size: int = 4096) -> Iterator[Tensor]:
    total = len(store.rows(numbers)) * store.spec.positions
    return (batch.tokens for batch in islice(store.batches(size, seed=0, images=numbers), max(1, total // size)))


WORK: dict[str, Callable[[CaslRun], None]] = {
    "harvest": harvest_stage, "train": train_stage, "align": align_stage,
    "steer": steer_stage, "evaluate": evaluate_stage, "report": report_stage,
}  # fmt: skip
