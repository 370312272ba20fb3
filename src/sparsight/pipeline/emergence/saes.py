"""Train the SAEs of a run: one for each stream and k, and those across time; Table 1 of the paper."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sparsight.activations import Store, TokenBatch
from sparsight.files import write_json
from sparsight.sae import SAE, TrainConfig, evaluate_sae, train_sae
from sparsight.sae.metrics import explained_variance

if TYPE_CHECKING:
    from sparsight.pipeline.emergence.run import EmergenceRun


def train_stage(run: EmergenceRun) -> None:
    """`saes/STREAM.kK/`, each with its metrics on held-out prompts beside it."""
    folder = run.own_folder("saes", "train")
    jobs = [(stream, k) for k in run.recipe.k for stream in run.streams()]
    for done, (stream, k) in enumerate(jobs):
        target = folder / f"{stream}.k{k}"
        if not (target / "metrics.json").exists():
            run.report.update(done, len(jobs), f"{stream}, k = {k}")
            store = run.store(stream)
            sae = train_sae(
                store,
                config_of(run, stream, k),
                target,
                images=run.numbers("train"),
                validation=run.numbers("held_out"),
            )
            sae.save_pretrained(target, {**stamps_of(run, stream)})
            write_json(target / "metrics.json", measure(sae, store, run.numbers("held_out")))
        run.report.update(done + 1, len(jobs), "")


def config_of(run: EmergenceRun, stream: str, k: int) -> TrainConfig:
    """A stream's training. Those of a site start alike, at every stage, as the paper's seem to (its "CID" 1722)."""
    config = replace(run.recipe.sae, k=k, seed=run.recipe.seed)
    return replace(config, t_edges=edges(run)) if stream.endswith(".all.cond") else config


def edges(run: EmergenceRun) -> tuple[int, ...]:
    """Between the timesteps of the SAE across time: each is a bin of its own."""
    pairs = run.model.pairs(run.recipe.sampling.steps)
    stamps = sorted(pairs[step][0] for step in run.spread)
    return tuple((low + high + 1) // 2 for low, high in pairwise(stamps))


def stamps_of(run: EmergenceRun, stream: str) -> dict[str, Any]:
    """What an edit checks: where the SAE was trained, and when."""
    config = run.streams()[stream]
    return {"site": config.site, "timesteps": config.stamps(run.model), "conditioning": config.conditioning}


@torch.no_grad()
def measure(sae: SAE, store: Store, numbers: list[int]) -> dict[str, Any]:
    """Metrics on whole maps of these images, ours and the paper's two: {timestep: {...}}."""
    found = {}
    for t, x in by_stamp(store, numbers).items():
        flat = x.flatten(0, 1)
        when = torch.full((len(flat),), t) if sae.config.t_edges else None
        batch = TokenBatch(flat, when, when, when) if when is not None else flat  # type: ignore[arg-type]
        found[str(t)] = evaluate_sae(sae, [batch]) | explained_variance(sae, flat, when)
    return found


def by_stamp(store: Store, numbers: list[int]) -> dict[int, Tensor]:
    """The tokens (images, positions, C) at each timestep of a store, images in the order of their numbers."""
    columns = store.load("tokens", "image", "t", images=numbers)
    found = {}
    for t in columns["t"].unique().tolist():
        mine = columns["t"] == t
        found[t] = columns["tokens"][mine][columns["image"][mine].argsort()]
    return found
