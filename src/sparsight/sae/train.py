"""Training an SAE on a store: resumable at any step, with the same weights as if it had never stopped."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from signal import Signals
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from sparsight.activations import TokenBatch, TokenSource, batch_entropy
from sparsight.files import read_json, sweep
from sparsight.parallel import Team, ends_together, join
from sparsight.sae.checkpoint import FILE, Log, TrainState, require_same_training
from sparsight.sae.config import TrainConfig
from sparsight.sae.initial import SAMPLE, start_from_data
from sparsight.sae.job import Images, Job
from sparsight.sae.metrics import evaluate_sae
from sparsight.sae.model import SAE
from sparsight.sae.rule import StepResult, Workspace
from sparsight.sae.statistics import input_statistics
from sparsight.sae.step import take_step
from sparsight.stopping import leave, told_to_stop

Progress = Callable[[int, int, dict[str, float]], None]


@ends_together
def train_sae(
    store: TokenSource,
    config: TrainConfig,
    folder: Path | str | None = None,
    progress: Progress | None = None,
    images: Images = None,
    validation: Images = None,
) -> SAE:
    """Train an SAE on the tokens of `images` (all if None) and score it on those of `validation` as it goes.

    `folder` receives `log.jsonl`, a checkpoint while it lasts, and the SAE (`config.json` last). Called again, a
    finished training returns its SAE, and one that was killed goes on and ends with the very same weights (on the same
    machine and number of threads). SIGTERM and Ctrl-C end the step, save a checkpoint, and then end the process as they
    would have. `progress(step, total, metrics)` is called every `log_every` steps with step, loss,
    mse (normalised units, mean over channels), l0, dar, fve, dead (share), lr, sparsity, tokens_per_second,
    and image_entropy and t_entropy: how well the batch was mixed, in bits.

    Started in several processes (torchrun), each trains on its part of every batch, and all return the SAE that one
    process would make, to rounding. Rank 0 writes `folder`, which all must see, and calls `progress`.

    Raises `SparsightError` if the loss stops being finite (the last checkpoint is kept), if `folder` belongs to
    another training, and on every rank if one of them fails.
    """
    job = Job(store, config, Path(folder) if folder is not None else None, images, validation)
    team = join(config.device)
    team.agree_on(job.identity, "configuration, store or choice of images")
    finished = _finished(job) if team.leads else None
    if job.folder is not None and team.of_first(finished is not None):
        return finished or SAE.from_pretrained(job.folder)
    state = _start(job, team)
    metrics = _run(state, job, progress)
    state.sae.extra = _extra(job) | {"metrics": _lasting(metrics)}
    if job.folder is not None and team.leads:
        state.sae.save_pretrained(job.folder)
        (job.folder / FILE).unlink(missing_ok=True)
    team.wait()  # for the files
    return state.sae


def _start(job: Job, team: Team) -> TrainState:
    """The state that the folder's checkpoint holds, or a fresh one: rank 0's, for all."""
    if job.folder is not None and team.leads:
        sweep(job.folder)
    state = _state(job.store, job.config)
    state.team = team
    if team.leads and (job.folder is None or not state.load(job.folder, job.identity)):
        mean, scale = input_statistics(job.store, job.config, job.images)
        state.sae.set_statistics(mean, scale)
        if job.config.init == "data":
            tokens = job.some_tokens(state.sae.config.d_sae + SAMPLE)
            start_from_data(state.sae, state.sae.normalise(tokens.to(state.since.device)))
    state.take_from_first()
    return state


def _run(state: TrainState, job: Job, progress: Progress | None) -> dict[str, float]:
    """The remaining steps; returns the last metrics. Told to stop, all ranks end the step, save, and leave."""
    config, work, team, last = job.config, Workspace(), state.team, perf_counter()
    log = Log(job.folder if team.leads else None, state.step)
    metrics = log.last
    with told_to_stop() as told:
        for batch in job.batches(state.step):
            x, result = _step(state, batch, config, work)
            if state.step % config.log_every == 0 or state.step == config.steps:
                speed = config.log_every * config.batch_size / (perf_counter() - last)
                metrics = _metrics(state, x, result, config) | _validate(state, job)
                metrics |= {"tokens_per_second": speed} | batch_entropy(batch)
                last = perf_counter()
                log.write(metrics)
                if progress is not None and team.leads:
                    progress(state.step, config.steps, metrics)
            due, stop = config.checkpoint_every and state.step % config.checkpoint_every == 0, team.highest(told() or 0)
            if job.folder is not None and team.leads and (due or stop):
                state.save(job.folder, job.identity)
            if stop:
                leave(Signals(stop))
    return metrics


def _step(state: TrainState, batch: TokenBatch, config: TrainConfig, work: Workspace) -> tuple[Tensor, StepResult]:
    """One step on this rank's part of a batch of raw tokens; returns that part normalised, and what came of it."""
    mine = state.team.rows(config.batch_size)
    x = state.sae.normalise(batch.tokens[mine].to(state.since.device))
    time = state.sae.bins(batch.t[mine]) if config.t_edges else None
    result = take_step(state, x, config, state.step + 1, work, time)
    state.step += 1
    return x, result


def _state(store: TokenSource, config: TrainConfig) -> TrainState:
    device = torch.device(
        ("cuda" if torch.cuda.is_available() else "cpu") if config.device == "auto" else config.device
    )
    sae = SAE(config.sae_config(store.spec.channels), config.seed)
    return TrainState.fresh(sae, (config.beta1, config.beta2), device)


def _metrics(state: TrainState, x: Tensor, result: StepResult, config: TrainConfig) -> dict[str, float]:
    l0, mean = float(result.active) / config.batch_size, state.team.mean(x.mean(0))
    spread = float(state.team.mean((x - mean).square().mean()))
    return {
        "step": state.step,
        "loss": float(result.loss),
        "mse": float(result.mse),
        "l0": l0,
        "dar": l0 / state.sae.config.d_sae,
        "fve": 1 - float(result.mse) / spread if spread else 0.0,
        "dead": float((state.since >= config.dead_after).double().mean()),
        "lr": config.lr_at(state.step),
        "sparsity": config.sparsity_at(state.step),
    }


def _validate(state: TrainState, job: Job) -> dict[str, float]:
    if job.validation is None or not job.config.validate_every or state.step % job.config.validate_every:
        return {}
    size = min(job.config.validation_tokens, 1024)
    scores = evaluate_sae(state.sae, islice(job.held_out(size), job.config.validation_tokens // size))
    return {f"validation_{name}": value for name, value in scores.items()}


def _finished(job: Job) -> SAE | None:
    if job.folder is None or not (job.folder / "config.json").exists():
        return None
    found = read_json(job.folder / "config.json").get("extra", {}).get("training")
    require_same_training(job.folder, str(found), job.identity)
    return SAE.from_pretrained(job.folder)


def _lasting(metrics: dict[str, float]) -> dict[str, float]:
    """What a card tells of the last logged step: figures that are the same on every machine."""
    return {name: value for name, value in metrics.items() if name != "tokens_per_second"}


def _extra(job: Job) -> dict[str, Any]:
    spec = job.store.spec
    made_of: dict[str, Any] = {"site": spec.site, "mode": spec.mode, "model": spec.model, "model_hash": spec.model_hash}
    if spec.conditioning:  # an SAE of one half and one stage: whoever edits with it can be told of another
        made_of |= {"conditioning": spec.conditioning, "timesteps": list(spec.timesteps)}
    return made_of | {"store": job.store.digest, "training": job.identity, "train_config": asdict(job.config)}
