"""The trainings and steps that one process and two must agree on."""

from dataclasses import replace
from typing import Any, NamedTuple

import torch

from sparsight.sae import SAE, SAEConfig, TrainConfig
from sparsight.sae.rule import Rule, Weights
from sparsight.sae.variants import variant

# AuxK together with a start from data is left out: there an atom that only its own token has moved sees a gradient of
# rounding errors alone, which Adam makes as large as any; one process with other roundings differs from itself as much.
TRAIN, HELD_OUT = list(range(20)), [20, 21, 22, 23]
SMALL = TrainConfig(
    d_sae=48, k=4, steps=24, batch_size=64, lr=1e-2, sparsity=0.5, sparsity_warmup=5, lr_warmup=3, lr_decay=6,
    checkpoint_every=7, log_every=2, dead_after=64, validate_every=8, validation_tokens=256,
)  # fmt: skip
TRAININGS = {
    "topk": replace(SMALL, activation="topk", k=3, aux_k=8),
    "batchtopk": replace(SMALL, activation="batchtopk", aux_k=8),
    "matryoshka": replace(SMALL, activation="batchtopk", prefixes=(8, 24)),
    "relu": replace(SMALL, sparsity=50.0, revive_every=5),
    "jumprelu": replace(SMALL, activation="jumprelu", revive_every=5, t_edges=(2,), init="data"),
    "gated": replace(SMALL, activation="gated", revive_every=5, decoder_norm="free"),
}


SHARDED = {
    "relu": Rule(sparsity=0.7), "topk": Rule("topk", 3, aux_k=4), "batchtopk": Rule("batchtopk", 3, prefixes=(16, 30)),
    "jumprelu": Rule("jumprelu", sparsity=0.7, bandwidth=0.5), "gated": Rule("gated", sparsity=0.7),
}  # fmt: skip


def sharded(name):
    """A fresh SAE with statistics that are not the neutral ones, and 12 raw tokens with their t."""
    g, rule = torch.Generator().manual_seed(1), SHARDED[name]
    edges = (500,) if name == "relu" else ()
    sae = SAE(SAEConfig(6, 40, name, 3, "unit", prefixes=rule.prefixes, t_edges=edges), seed=3)
    sae.set_statistics(torch.randn(6, generator=g), 1.7)
    if name == "batchtopk":
        sae.threshold.fill_(0.5)
    return sae, torch.randn(12, 6, generator=g), 100 * torch.arange(12), torch.arange(40) % 3 == 0


def lopsided():
    """Pre-activations (64, 50) whose large entries lie nearly all in the second half of the rows."""
    pre = torch.randn(64, 50, generator=torch.Generator().manual_seed(2))
    pre[32:] += 1
    return pre


class Case(NamedTuple):
    """The arguments of a training step in fp64: 16 tokens of 6 channels, 40 latents."""

    x: torch.Tensor
    w: Weights
    rule: Rule
    dead: torch.Tensor | None
    own: dict[str, Any]
    time: torch.Tensor | None


def steps():
    """One case of each rule. The second half of the batch is three times the first, so that no half has a half's share."""
    g = torch.Generator().manual_seed(0)

    def rand(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    x = rand(16, 6)
    x[8:] *= 3
    w = Weights(rand(40, 6), rand(40) * 0.1, rand(40, 6), rand(6))
    own = {"log_threshold": rand(40) * 0.1 - 1, "r_mag": rand(40) * 0.1, "b_mag": rand(40) * 0.1}
    dead = torch.arange(40) % 3 == 0
    time, b_time = torch.nn.functional.one_hot(torch.arange(16) % 2, 2).double(), rand(2, 40)
    rules = {
        "relu": Rule(sparsity=0.7), "dense": Rule(sparsity=0.7, dense_above=0.0), "topk": Rule("topk", 3, aux_k=4),
        "batchtopk": Rule("batchtopk", 3, aux_k=4), "full": Rule("batchtopk", 39),
        "matryoshka": Rule("batchtopk", 3, prefixes=(5, 20)),
        "jumprelu": Rule("jumprelu", sparsity=0.7, bandwidth=0.5, aux_k=4), "gated": Rule("gated", sparsity=0.7, aux_k=4),
    }  # fmt: skip
    made = {n: Case(x, w, r, dead, {k: own[k] for k in variant(r.activation).own}, None) for n, r in rules.items()}
    told = made["jumprelu"]
    same = x.clone()
    same[8:] = same[:8]  # every pre-activation twice: ties across the ranks
    made["told t"] = told._replace(own={**told.own, "b_time": b_time}, time=time)
    made["ties"] = made["batchtopk"]._replace(x=same, rule=Rule("batchtopk", 3, pre_bias=False))
    return made
