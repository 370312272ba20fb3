"""Training an SAE on a store: resumable at any step, with the same weights as if it had never stopped."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from sparsight.activations import TokenBatch, TokenSource, batch_entropy
from sparsight.errors import SparsightError
from sparsight.files import digest, read_json
from sparsight.sae.checkpoint import FILE, Log, TrainState, require_same_training
from sparsight.sae.config import TrainConfig, without_later_defaults
from sparsight.sae.initial import SAMPLE, start_from_data
from sparsight.sae.metrics import evaluate_sae
from sparsight.sae.model import SAE
from sparsight.sae.rule import StepResult, Workspace
from sparsight.sae.step import take_step

Progress = Callable[[int, int, dict[str, float]], None]
Images = Tensor | list[int] | None
STATISTICS_TOKENS = 1 << 19
BOOKKEEPING = ("checkpoint_every", "log_every", "validate_every", "validation_tokens")  # do not change the weights


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
    machine and number of threads). `progress(step, total, metrics)` is called every `log_every` steps with step, loss,
    mse (normalised units, mean over channels), l0, dar, fve, dead (share), lr, sparsity, tokens_per_second,
    and image_entropy and t_entropy: how well the batch was mixed, in bits.

    Raises `SparsightError` if the loss stops being finite (the last checkpoint is kept), and if `folder` belongs to
    another training.
    """
    folder = Path(folder) if folder is not None else None
    identity = _identity(store, config, images)
    finished = _finished(folder, identity)
    if finished is not None:
        return finished
    state = _state(store, config, images)
    if folder is None or not state.load(folder, identity):
        mean, scale = input_statistics(store, config, images)
        state.sae.set_statistics(mean, scale)
        if config.init == "data":
            start_from_data(state.sae, _some_tokens(state.sae, store, config, images))
    log, metrics = Log(folder, state.step), {}
    for metrics in _steps(state, store, config, images, validation, folder, identity):
        log.write(metrics)
        if progress is not None:
            progress(int(metrics["step"]), config.steps, metrics)
    state.sae.extra = _extra(store, config, identity) | {"metrics": _lasting(metrics)}
    if folder is not None:
        state.sae.save_pretrained(folder)
        (folder / FILE).unlink(missing_ok=True)
    return state.sae


def _steps(
    state: TrainState,
    store: TokenSource,
    config: TrainConfig,
    images: Images,
    validation: Images,
    folder: Path | None,
    identity: str,
) -> Iterator[dict[str, float]]:
    """Run the remaining steps; yield metrics where they are logged."""
    work, last = Workspace(), perf_counter()
    for step, batch in enumerate(_batches(store, config, state.step, images), state.step + 1):
        x = state.sae.normalise(batch.tokens.to(state.since.device))
        time = state.sae.bins(batch.t) if config.t_edges else None
        result = take_step(state, x, config, step, work, time)
        state.step = step
        if step % config.log_every == 0 or step == config.steps:
            speed = config.log_every * config.batch_size / (perf_counter() - last)
            last = perf_counter()
            yield (
                _metrics(state, x, result, config)
                | _validate(state, store, config, validation)
                | {"tokens_per_second": speed}
                | batch_entropy(batch)
            )
        if folder is not None and config.checkpoint_every and step % config.checkpoint_every == 0:
            state.save(folder, identity)


def input_statistics(store: TokenSource, config: TrainConfig, images: Images = None) -> tuple[Tensor, float]:
    """The mean (d_in,) of the tokens and sqrt(d_in / E|x - mean|^2), in fp64 over half a million tokens at most.

    Raises `SparsightError` if all tokens are the same.
    """
    wanted = min(len(store.rows(images)) * store.spec.positions, STATISTICS_TOKENS)
    size = min(wanted, 8192)
    count, total, squares = 0, torch.zeros(store.spec.channels, dtype=torch.float64), 0.0
    shift = torch.zeros_like(total)  # the first batch's mean, so that a large mean does not cancel
    for batch in store.batches(size, seed=config.seed, memory_mb=config.memory_mb, images=images):
        x = batch.tokens[: wanted - count].double()
        shift = x.mean(0) if not count else shift
        x = x - shift
        count, total, squares = count + len(x), total + x.sum(0), squares + float(x.square().sum())
        if count == wanted:
            break
    variance = squares / count - float((total / count).square().sum())
    if variance <= 1e-12 * max(1.0, float(shift.square().sum())):
        raise SparsightError(f"all tokens of {store} are the same: there is nothing to learn")
    return (shift + total / count).float(), math.sqrt(store.spec.channels / variance)


def _state(store: TokenSource, config: TrainConfig, images: Images) -> TrainState:
    device = torch.device(
        ("cuda" if torch.cuda.is_available() else "cpu") if config.device == "auto" else config.device
    )
    sae = SAE(config.sae_config(store.spec.channels), config.seed)
    return TrainState.fresh(sae, (config.beta1, config.beta2), device)


def _some_tokens(sae: SAE, store: TokenSource, config: TrainConfig, images: Images) -> Tensor:
    """Normalised tokens (n, d_in), a few more than latents if the store has them, each at most once."""
    size = min(len(store.rows(images)) * store.spec.positions, sae.config.d_sae + SAMPLE)
    batches = store.batches(size, seed=config.seed, memory_mb=config.memory_mb, images=images)
    return sae.normalise(next(batches).tokens.to(sae.mean.device))


def _batches(store: TokenSource, config: TrainConfig, start: int, images: Images) -> Iterator[TokenBatch]:
    batches = store.batches(config.batch_size, seed=config.seed, memory_mb=config.memory_mb, start=start, images=images)
    return islice(batches, config.steps - start)


def _metrics(state: TrainState, x: Tensor, result: StepResult, config: TrainConfig) -> dict[str, float]:
    l0, spread = float(result.active) / len(x), float((x - x.mean(0)).square().mean())
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


def _validate(state: TrainState, store: TokenSource, config: TrainConfig, validation: Images) -> dict[str, float]:
    if validation is None or not config.validate_every or state.step % config.validate_every:
        return {}
    size = min(config.validation_tokens, 1024)
    batches = store.batches(size, seed=config.seed, memory_mb=config.memory_mb, images=validation)
    scores = evaluate_sae(state.sae, islice(batches, config.validation_tokens // size))
    return {f"validation_{name}": value for name, value in scores.items()}


def _identity(store: TokenSource, config: TrainConfig, images: Images) -> str:
    chosen = None if images is None else sorted(torch.as_tensor(images).tolist())
    values = without_later_defaults(TrainConfig, asdict(config))
    return digest([{k: v for k, v in values.items() if k not in BOOKKEEPING}, store.digest, chosen])


def _finished(folder: Path | None, identity: str) -> SAE | None:
    if folder is None or not (folder / "config.json").exists():
        return None
    found = read_json(folder / "config.json").get("extra", {}).get("training")
    require_same_training(folder, str(found), identity)
    return SAE.from_pretrained(folder)


def _lasting(metrics: dict[str, float]) -> dict[str, float]:
    """What a card tells of the last logged step: figures that are the same on every machine."""
    return {name: value for name, value in metrics.items() if name != "tokens_per_second"}


def _extra(store: TokenSource, config: TrainConfig, identity: str) -> dict[str, Any]:
    spec = store.spec
    made_of: dict[str, Any] = {"site": spec.site, "mode": spec.mode, "model": spec.model, "model_hash": spec.model_hash}
    if spec.conditioning:  # an SAE of one half and one stage: whoever edits with it can be told of another
        made_of |= {"conditioning": spec.conditioning, "timesteps": list(spec.timesteps)}
    return made_of | {"store": store.digest, "training": identity, "train_config": asdict(config)}
