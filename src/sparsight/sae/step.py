"""One step of training, from a batch to new weights: this page, top to bottom."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sparsight.activations.encoding import generator
from sparsight.errors import SparsightError
from sparsight.parallel import Team
from sparsight.sae.checkpoint import TrainState
from sparsight.sae.config import TrainConfig
from sparsight.sae.kernels import training_step
from sparsight.sae.revive import revive
from sparsight.sae.rule import Rule, StepResult, Workspace


def take_step(
    state: TrainState, x: Tensor, config: TrainConfig, step: int, work: Workspace, time: Tensor | None = None
) -> StepResult:
    """One step of Adam on normalised tokens (B, d) with the one-hot bins of their t, (B, bins), if the SAE is told t.

    In a team each rank brings its part of the batch, and all end with the same weights.

    The loss and gradients by hand, the unit norm kept, the threshold averaged, the dead counted and revived.
    Raises `SparsightError` if the loss is not finite.
    """
    weights, team, unit = state.weights, state.team, config.decoder_norm == "unit"
    dead = state.since >= config.dead_after
    result = training_step(x, weights, rule_at(config, step), work, dead, state.own, time, team)
    if team.size > 1:
        result = of_all_ranks(result, team)
    if not math.isfinite(float(result.loss)):
        raise SparsightError(
            f"the loss is {float(result.loss)} at step {step} of {config.steps}: "
            "lower lr or sparsity; the last checkpoint is kept"
        )
    gradients = result.gradients._asdict() | result.own
    for name, weight in state.trained().items():
        weight.grad = gradients[name]
    if unit:
        remove_radial_part(result.gradients.dec, weights.dec.data)
    state.adam.param_groups[0]["lr"] = config.lr_at(step)
    state.adam.step()
    if unit:
        weights.dec.data.div_(weights.dec.data.norm(dim=1, keepdim=True))
    if config.activation == "batchtopk":  # the plain mean at first, so that the start at 0 leaves no trace
        state.sae.threshold.lerp_(result.threshold, max(1 / step, 1 - config.threshold_decay))
    state.since.add_(len(x) * team.size).masked_fill_(result.fired, 0)
    if config.revive_every and step % config.revive_every == 0:
        inputs = x - weights.b_dec.data if config.pre_bias else x
        batch = team.gather(inputs), team.gather(result.error)
        revive(state, *batch, state.since >= config.dead_after, generator(config.seed, step))
    return result


def of_all_ranks(result: StepResult, team: Team) -> StepResult:
    """The result of the whole batch from those of its equal parts; the error stays that of each rank's own tokens."""
    team.mean_in_place([*result.gradients, *result.own.values()])
    loss, mse = team.mean(torch.stack([result.loss, result.mse]))
    active, fired = team.total(result.active), team.anywhere(result.fired)
    return result._replace(loss=loss, mse=mse, active=active, fired=fired)


def remove_radial_part(gradient: Tensor, atoms: Tensor) -> None:
    """Take from each row of `gradient` (m, d) its part along the unit atom, which the norm constraint would undo."""
    along = torch.bmm(gradient.unsqueeze(1), atoms.unsqueeze(2)).squeeze(2)  # vecdot would write the (m, d) product
    gradient.addcmul_(atoms, along, value=-1)


def rule_at(config: TrainConfig, step: int) -> Rule:
    """What the kernels need to know of a configuration at a step."""
    shared = ("activation", "k", "pre_bias", "aux_k", "aux_coefficient", "amp", "dense_above", "bandwidth", "prefixes")
    return Rule(sparsity=config.sparsity_at(step), **{name: getattr(config, name) for name in shared})
