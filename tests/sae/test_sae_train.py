"""Training: exact resume, a planted dictionary found again, dead latents revived, errors that name the step."""

import json
from dataclasses import replace

import pytest
import torch

from sparsight.activations.encoding import generator
from sparsight.errors import SparsightError
from sparsight.sae import SAE, SAEConfig, TrainConfig, evaluate_sae, input_statistics, train_sae
from sparsight.sae.checkpoint import TrainState
from sparsight.sae.kernels import Rule, Workspace, training_step
from sparsight.sae.revive import revive
from sparsight.sae.step import remove_radial_part

SMALL = TrainConfig(
    d_sae=48, steps=24, batch_size=64, lr=1e-2, sparsity=1.0, sparsity_warmup=5, lr_warmup=3, lr_decay=6,
    checkpoint_every=7, log_every=2, dead_after=200, revive_every=5,
)  # fmt: skip


class KilledError(Exception):
    pass


def kill_at(step):
    def progress(at, total, metrics):
        if at >= step:
            raise KilledError

    return progress


@pytest.mark.parametrize(
    "config",
    [
        replace(SMALL, dead_after=64, sparsity=50.0),
        replace(SMALL, activation="topk", k=3, revive_every=0, aux_k=8),
        replace(SMALL, decoder_norm="free"),
    ],
)
@pytest.mark.parametrize("step", [2, 16])
def test_a_killed_training_ends_with_the_same_weights(store, tmp_path, config, step):
    whole = train_sae(store, config)
    with pytest.raises(KilledError):
        train_sae(store, config, tmp_path, kill_at(step))
    assert (tmp_path / "checkpoint.safetensors").exists() == (step > 7)
    resumed = train_sae(store, config, tmp_path)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name
    steps = [json.loads(line)["step"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert steps == list(range(2, 25, 2))
    assert not (tmp_path / "checkpoint.safetensors").exists()


def test_a_finished_training_is_not_done_again_and_not_mixed_up(store, tmp_path):
    first = train_sae(store, SMALL, tmp_path)
    again = train_sae(store, replace(SMALL, log_every=3), tmp_path, kill_at(0))
    assert torch.equal(first.W_enc, again.W_enc)
    assert first.extra["site"] == "mid_block" and first.extra["model_hash"] == "h"
    with pytest.raises(SparsightError, match="another configuration or store"):
        train_sae(store, replace(SMALL, lr=1e-4), tmp_path)
    with pytest.raises(SparsightError, match="another configuration or store"):
        train_sae(store, SMALL, tmp_path, images=[0, 1])


def test_a_corrupt_checkpoint_is_refused(store, tmp_path):
    with pytest.raises(KilledError):
        train_sae(store, SMALL, tmp_path, kill_at(16))
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(SparsightError, match=r"checkpoint.safetensors is truncated or corrupt"):
        train_sae(store, SMALL, tmp_path)


@pytest.mark.parametrize("activation", ["relu", "topk"])
def test_training_learns(store, activation):
    """Far better than a fresh SAE, sparse, and with unit atoms; scored on images it never saw."""
    config = replace(
        SMALL, activation=activation, k=4, steps=300, lr_decay=100, sparsity=0.5, revive_every=0, validate_every=300
    )
    seen = []
    train = list(range(20))
    sae = train_sae(store, config, None, lambda s, t, m: seen.append(m), images=train, validation=[20, 21, 22, 23])
    fresh = SAE(sae.config)
    fresh.set_statistics(sae.mean, float(sae.scale))
    held_out = store.load("tokens", images=[20, 21, 22, 23])["tokens"]
    before, after = evaluate_sae(fresh, [held_out]), evaluate_sae(sae, [held_out])
    assert after["fve"] > 0.8 and after["mse"] < 0.5 * before["mse"]
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(48))
    assert seen[-1]["step"] == 300 and seen[-1]["validation_fve"] == pytest.approx(after["fve"], abs=0.03)
    assert seen[-1]["loss"] < seen[0]["loss"]


def test_statistics_are_the_closed_form(store):
    mean, scale = input_statistics(store, SMALL)
    x = store.load("tokens")["tokens"].double().flatten(0, 1)
    torch.testing.assert_close(mean.double(), x.mean(0), rtol=1e-6, atol=1e-6)
    sae = SAE(SAEConfig(8, 16))
    sae.set_statistics(mean, scale)
    assert sae.normalise(x.float()).square().sum(1).mean() == pytest.approx(8, rel=1e-5)


def test_the_norm_constraint_keeps_only_the_tangent():
    atoms = torch.nn.functional.normalize(torch.randn(9, 5, dtype=torch.float64), dim=1)
    gradient = torch.randn(9, 5, dtype=torch.float64)
    projected = gradient.clone()
    remove_radial_part(projected, atoms)
    torch.testing.assert_close((projected * atoms).sum(1), torch.zeros(9, dtype=torch.float64))
    torch.testing.assert_close(gradient - projected, (gradient * atoms).sum(1, keepdim=True) * atoms)


def test_revived_latents_fire_on_bad_tokens_and_help():
    state = TrainState.fresh(SAE(SAEConfig(8, 64), seed=1), (0.9, 0.999), torch.device("cpu"))
    x = torch.randn(256, 8, generator=torch.Generator().manual_seed(0))
    state.weights.b_enc.data[10:] = -1e3  # 54 latents that can never fire
    before = training_step(x, state.weights, Rule(), Workspace())
    for weight, gradient in zip(state.weights, before.gradients, strict=True):
        weight.grad = gradient
    state.adam.step()
    before = training_step(x, state.weights, Rule(), Workspace())
    assert not before.fired[10:].any()
    state.since[10:] = 1000
    moved = revive(state, x, before.error, state.since >= 1000, generator(0, 1))
    after = training_step(x, state.weights, Rule(), Workspace())
    assert moved.tolist() == list(range(10, 42))  # an eighth of the batch, not all 54
    assert after.fired[moved].all() and not after.fired[42:].any()
    assert after.mse < before.mse
    assert (state.since[moved] == 0).all() and (state.since[42:] == 1000).all()
    assert not state.adam.state[state.weights.enc]["exp_avg"][moved].any()
    torch.testing.assert_close(state.weights.dec[moved].norm(dim=1), torch.ones(32))


def test_nothing_is_revived_where_nothing_is_dead():
    state = TrainState.fresh(SAE(SAEConfig(4, 8)), (0.9, 0.999), torch.device("cpu"))
    x, dead = torch.randn(16, 4), torch.zeros(8, dtype=torch.bool)
    assert len(revive(state, x, x, dead, generator(0))) == 0
    assert len(revive(state, x, torch.zeros_like(x), ~dead, generator(0))) == 0


def test_the_dead_clock_counts_tokens(store):
    seen = []
    config = replace(SMALL, activation="topk", k=1, d_sae=2000, steps=10, dead_after=320, revive_every=0, log_every=1)
    train_sae(store, config, progress=lambda s, t, m: seen.append(m))
    assert seen[3]["dead"] == 0 and seen[0]["dead"] == 0  # after 4 x 64 tokens nothing can be dead yet
    assert 1360 / 2000 <= seen[-1]["dead"] < 1  # ten batches of 64 can wake 640 latents at most


def test_a_loss_that_is_not_finite_names_the_step_and_keeps_the_checkpoint(store, tmp_path):
    config = replace(SMALL, lr=1e30, lr_warmup=0, checkpoint_every=1, decoder_norm="free")
    with pytest.raises(SparsightError, match=r"the loss is (nan|inf) at step \d+ of 24"):
        train_sae(store, config, tmp_path)
    assert (tmp_path / "checkpoint.safetensors").exists() and not (tmp_path / "config.json").exists()


def test_schedules():
    config = TrainConfig(steps=100, lr=1.0, lr_warmup=10, lr_decay=20, sparsity=32, sparsity_warmup=50)
    assert [config.lr_at(s) for s in (1, 5, 10, 50, 81, 91, 100)] == [0.1, 0.5, 1, 1, 1, 0.5, 0.05]
    assert [config.sparsity_at(s) for s in (1, 25, 50, 100)] == [0.64, 16, 32, 32]
    assert replace(config, activation="topk").sparsity_at(100) == 0
