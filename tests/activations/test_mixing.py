"""Shuffling is measured: what a shuffled reader gives is what chance gives, and storage order is far from it."""

import json
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch

from sparsight import DiffusionModel, LiveStore, Stream
from sparsight.activations import TokenBatch, batch_entropy, ideal_entropy
from sparsight.sae import TrainConfig, train_sae
from stores import SPEC, Pictures, fill
from tiny import tiny_pipeline


def numpy_entropy(ids):
    share = np.unique(ids, return_counts=True)[1] / len(ids)
    return float(-(share * np.log2(share)).sum())


@pytest.mark.parametrize(("tokens", "size"), [([10] * 8, 16), ([1, 5, 30], 12), ([3, 3], 6), ([7], 4), ([4] * 20, 75)])
def test_the_ideal_is_the_mean_over_random_draws(tokens, size):
    ids, dice = np.repeat(np.arange(len(tokens)), tokens), np.random.default_rng(0)
    drawn = [numpy_entropy(dice.choice(ids, size, replace=False)) for _ in range(3000)]
    assert ideal_entropy(tokens, size) == pytest.approx(np.mean(drawn), abs=0.015)


def test_a_shuffled_store_comes_near_the_ideal_and_storage_order_does_not(tmp_path):
    store = fill(tmp_path, units=16, maps=16, spec=replace(SPEC, channels=3))
    ideal = {"image_entropy": ideal_entropy([8] * 128, 64), "t_entropy": ideal_entropy([512, 512], 64)}

    def mean(batches):
        found = [batch_entropy(batch) for batch in batches]
        return {name: sum(f[name] for f in found) / len(found) / ideal[name] for name in ideal}

    ordered = torch.arange(1024).split(64)
    image, t = (store.ids[name].repeat_interleave(4) for name in ("image", "t"))
    plain = mean(TokenBatch(torch.empty(0), image[i], t[i], i % 4) for i in ordered)
    whole = mean(islice(store.batches(64, seed=0), 16))
    assert 0.99 < whole["image_entropy"] < 1.01 and 0.99 < whole["t_entropy"] < 1.01
    assert plain["image_entropy"] < 0.6
    eighth = mean(islice(store.batches(64, seed=0, memory_mb=32 * 4 * (3 * 4 + 8) / 2**20), 16))
    assert 0.8 < eighth["image_entropy"] < 1.01  # a buffer of an eighth of the maps costs little


def test_a_live_store_comes_near_the_ideal():
    model = DiffusionModel.from_pipeline(tiny_pipeline(), name="tiny")
    live = LiveStore(model, Pictures(24), Stream(steps=10, method="noising", positions=4))
    for memory_mb, least in ((0.3, 0.98), (0.1, 0.8)):  # room for an epoch, and for a third of it
        found = [batch_entropy(batch) for batch in islice(live.batches(96, seed=0, memory_mb=memory_mb), 5)]
        for name, ids in (("image_entropy", [20] * 24), ("t_entropy", [96] * 5)):
            assert least < sum(f[name] for f in found) / 5 / ideal_entropy(ids, 96) < 1.02


def test_training_logs_it(tmp_path):
    store = fill(tmp_path / "store")
    train_sae(store, TrainConfig(d_sae=4, steps=2, batch_size=32, log_every=1), tmp_path / "sae")
    lines = [json.loads(line) for line in (tmp_path / "sae" / "log.jsonl").read_text().splitlines()]
    for line, batch in zip(lines, store.batches(32, seed=0), strict=False):
        assert line["image_entropy"] == pytest.approx(numpy_entropy(batch.image.numpy()))
        assert line["t_entropy"] == pytest.approx(numpy_entropy(batch.t.numpy()))
