"""Training the variants on a store: resumed exactly, learning, thresholds averaged, dead latents revived."""

from dataclasses import asdict, replace

import pytest
import torch

from sparsight.activations import StoreSpec, StoreWriter, TokenBatch
from sparsight.activations.encoding import generator
from sparsight.errors import SparsightError
from sparsight.sae import SAE, SAEConfig, TrainConfig, evaluate_sae, train_sae
from sparsight.sae.checkpoint import TrainState
from sparsight.sae.config import LATER, without_later_defaults
from sparsight.sae.initial import start_from_data
from sparsight.sae.kernels import Rule, Workspace, training_step
from sparsight.sae.revive import revive
from sparsight.sae.step import rule_at, take_step

SMALL = TrainConfig(
    d_sae=48, k=4, steps=24, batch_size=64, lr=1e-2, sparsity=0.5, sparsity_warmup=5, lr_warmup=3, lr_decay=6,
    checkpoint_every=7, log_every=2, dead_after=64,
)  # fmt: skip
VARIANTS = {
    "batchtopk": replace(SMALL, activation="batchtopk", aux_k=8),
    "jumprelu": replace(SMALL, activation="jumprelu", revive_every=5),
    "gated": replace(SMALL, activation="gated", revive_every=5),
    "matryoshka": replace(SMALL, activation="batchtopk", prefixes=(8, 24), aux_k=8),
    "conditioned": replace(SMALL, activation="jumprelu", t_edges=(2,), aux_k=8, init="data"),
    "relu from data": replace(SMALL, init="data", t_edges=(2,), prefixes=(8,), revive_every=5),
}


class KilledError(Exception):
    pass


def kill(at, total, metrics):
    if at >= 16:
        raise KilledError


@pytest.mark.parametrize("name", VARIANTS)
def test_a_killed_training_ends_with_the_same_weights(store, tmp_path, name):
    whole = train_sae(store, VARIANTS[name])
    with pytest.raises(KilledError):
        train_sae(store, VARIANTS[name], tmp_path, kill)
    resumed = train_sae(store, VARIANTS[name], tmp_path)
    loaded = SAE.from_pretrained(tmp_path)
    assert loaded.config == whole.config and whole.config.t_edges == VARIANTS[name].t_edges
    for key, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[key]) and torch.equal(tensor, loaded.state_dict()[key]), key


@pytest.mark.parametrize("name", VARIANTS)
def test_training_learns(store, name):
    """Far better than a fresh SAE, sparse, and with unit atoms; scored on images it never saw."""
    config = replace(VARIANTS[name], steps=300, lr_decay=100, revive_every=0, aux_k=0, dead_after=10_000)
    sae = train_sae(store, config, images=list(range(20)))
    fresh = SAE(sae.config)
    fresh.set_statistics(sae.mean, float(sae.scale))
    columns = store.load("tokens", "t", "image", images=[20, 21, 22, 23])
    t = columns["t"].repeat_interleave(16)
    batch = TokenBatch(columns["tokens"].flatten(0, 1), t, t, t)
    before, after = evaluate_sae(fresh, [batch]), evaluate_sae(sae, [batch])
    assert after["fve"] > 0.75 and after["mse"] < 0.5 * before["mse"] and after["l0"] < 24
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(48))
    moved = [key for key, value in sae.own.items() if not torch.equal(value, fresh.own[key])]
    assert moved == list(sae.own)


def test_batchtopk_keeps_k_at_inference_too(store):
    """The saved threshold stands in for the batch: fresh tokens have k active latents on average, each alone."""
    sae = train_sae(store, replace(VARIANTS["batchtopk"], steps=300, lr_decay=100, aux_k=0))
    tokens = store.load("tokens")["tokens"].flatten(0, 1)
    alone = torch.stack([(sae.encode(x) > 0).sum() for x in tokens[:200]]).float()
    assert 3.4 < (sae.encode(tokens) > 0).sum(1).float().mean() < 4.6
    assert alone.std() > 0.3 and torch.equal(alone, (sae.encode(tokens[:200]) > 0).sum(1).float())


def test_the_threshold_is_a_running_mean():
    """The plain mean of the first steps, then an exponential one; nothing of the start at 0 stays."""
    config = replace(VARIANTS["batchtopk"], threshold_decay=0.75, steps=10)
    state = TrainState.fresh(SAE(config.sae_config(8)), (0.9, 0.999), torch.device("cpu"))
    x, cuts = torch.randn(64, 8), []
    for step in range(1, 8):
        cuts.append(float(training_step(x, state.weights, rule_at(config, step), Workspace()).threshold))
        take_step(state, x, config, step, Workspace())
    mean = sum(cuts[:4]) / 4
    for cut in cuts[4:]:
        mean = 0.75 * mean + 0.25 * cut
    assert float(state.sae.threshold) == pytest.approx(mean, rel=1e-5) and len(set(cuts)) == 7


@pytest.mark.parametrize("activation", ["jumprelu", "gated"])
@pytest.mark.parametrize("seed", range(4))
def test_revived_latents_fire_on_bad_tokens_and_help(activation, seed):
    state = TrainState.fresh(SAE(SAEConfig(8, 64, activation, t_edges=(5,)), seed=1), (0.9, 0.999), torch.device("cpu"))
    x = torch.randn(256, 8, generator=torch.Generator().manual_seed(seed))
    time = state.sae.bins(torch.arange(256) % 10)
    state.weights.b_enc.data[10:] = -1e3
    state.own["b_time"].data[:, 10:] = -5
    rule, work = Rule(activation), Workspace()
    before = training_step(x, state.weights, rule, work, own=state.own, time=time)
    assert not before.fired[10:].any()
    state.since[10:] = 1000
    moved = revive(state, x, before.error, state.since >= 1000, generator(0, 1))
    after = training_step(x, state.weights, rule, work, own=state.own, time=time)
    assert moved.tolist() == list(range(10, 42)) and after.fired[moved].all() and not after.fired[42:].any()
    assert after.mse < before.mse


def test_a_start_from_data_points_at_tokens_and_is_calibrated():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(2000, 16, generator=g) * torch.linspace(0.05, 2, 16)
    x = x * (16 / x.square().sum(1).mean()).sqrt()
    for activation in ("relu", "topk", "batchtopk", "jumprelu", "gated"):
        sae = SAE(SAEConfig(16, 320, activation, k=6))
        start_from_data(sae, x)
        torch.testing.assert_close(sae.W_dec.data, torch.nn.functional.normalize(x[:320]))
        assert (torch.nn.functional.cosine_similarity(sae.W_enc.t(), sae.W_dec) > 0.9999).all()
        h_hat, held = sae(x[1000:]).detach(), x[1000:]
        assert 0.95 < float((h_hat * held).sum() / h_hat.square().sum()) < 1.05  # no rescaling would help
        active = float((sae.encode(held) > 0).sum(1).float().mean())
        assert active == pytest.approx(6 if "topk" in activation else 16, rel=0.15)


def test_a_start_from_few_or_empty_tokens_keeps_random_atoms():
    sae, before = SAE(SAEConfig(16, 64)), SAE(SAEConfig(16, 64)).W_dec
    start_from_data(sae, torch.cat([torch.ones(1, 16), torch.zeros(1, 16)]))
    torch.testing.assert_close(sae.W_dec[0], torch.full((16,), 0.25))
    assert torch.equal(sae.W_dec[1:], before[1:]) and torch.isfinite(sae.W_enc).all()


def test_conditioning_on_t_pays_where_t_shifts_the_tokens(tmp_path):
    """Each timestep adds its own offset along an atom: only an SAE that is told t can take it off a latent."""
    g = torch.Generator().manual_seed(0)
    atoms = torch.nn.functional.normalize(torch.randn(12, 8, generator=g), dim=1)
    writer = StoreWriter(tmp_path, StoreSpec("mid", "output", 8, (4, 4), "toy", "h", "fp32", (1, 2), "x"))
    z = torch.rand(32, 16, 12, generator=g) * (torch.rand(32, 16, 12, generator=g) < 0.15)
    t = 1 + torch.arange(32) % 2
    writer.write(0, z @ atoms + (t == 2)[:, None, None] * atoms[:4].sum(0), torch.arange(32), t)
    store = writer.finish()
    config = replace(SMALL, activation="topk", k=3, steps=400, lr_decay=100, dead_after=10**6)
    columns = store.load("tokens", "t")
    scores = []
    for edges in ((), (2,)):
        sae = train_sae(store, replace(config, t_edges=edges))
        flat = columns["t"].repeat_interleave(16)
        scores.append(
            evaluate_sae(sae, [TokenBatch(columns["tokens"].flatten(0, 1), flat, flat, flat)], bins=[1, 2, 3])
        )
    assert [one["n_tokens"] for one in scores[1]["by_t"]] == [256, 256]
    assert scores[1]["fve"] > scores[0]["fve"]
    with pytest.raises(SparsightError, match="conditioned on the timestep"):
        sae.encode(columns["tokens"])
    with pytest.raises(SparsightError, match=r"t has shape \(5,\)"):
        sae.encode(columns["tokens"], torch.ones(5))
    with pytest.raises(SparsightError, match="conditioned on the timestep"):
        evaluate_sae(sae, [columns["tokens"]])


def test_fields_that_came_later_leave_old_identities_alone():
    """A finished training, or a checkpoint, of an earlier version is still recognised."""
    plain = asdict(TrainConfig())
    assert set(plain) - set(without_later_defaults(TrainConfig, plain)) == set(LATER)
    changed = replace(TrainConfig(), prefixes=(4,), init="data")
    assert {"prefixes", "init"} == set(without_later_defaults(TrainConfig, asdict(changed))) & set(LATER)
    from_json = plain | {"prefixes": [], "t_edges": [3]}
    assert set(without_later_defaults(TrainConfig, from_json)) & set(LATER) == {"t_edges"}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"activation": "gelu"}, r"unknown activation 'gelu'.*batchtopk"),
        ({"init": "pca"}, r"unknown init 'pca'.*\(valid: .*data"),
        ({"activation": "batchtopk", "revive_every": 5}, "use aux_k"),
        ({"activation": "relu", "aux_k": 5}, "use revive_every"),
        ({"bandwidth": 0.0}, "bandwidth must be a positive number"),
        ({"threshold_decay": 1.0}, "threshold_decay must lie in"),
        ({"prefixes": (8, 4)}, "prefixes must be a list of increasing whole numbers"),
        ({"t_edges": "200"}, "t_edges must be a list of increasing whole numbers"),
    ],
)
def test_mistakes_are_named(values, words):
    with pytest.raises(SparsightError, match=words):
        TrainConfig(**values)


def test_an_sae_that_cannot_be_is_refused():
    with pytest.raises(SparsightError, match="prefixes must lie between 1 and d_sae = 16"):
        SAEConfig(8, 16, prefixes=(4, 17))
    with pytest.raises(SparsightError, match="k must lie between 1 and d_sae = 16"):
        SAEConfig(8, 16, "batchtopk", k=17)
