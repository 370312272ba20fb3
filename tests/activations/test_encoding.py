"""Storage types and kept positions: what is stored is what is said, and the error is measured."""

import json
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsight import SparsightError
from sparsight.activations import Store, StoreWriter
from sparsight.activations.encoding import encode
from stores import SPEC, fill


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), size=st.sampled_from([1e-20, 1.0, 1e20]))
def test_int8_is_within_half_a_step_of_each_tokens_largest_channel(seed, size):
    tokens = torch.randn(3, 5, 7, generator=torch.Generator().manual_seed(seed)) * size
    tokens[1, 2] = 0
    found = encode(tokens, "int8").decode()
    step = tokens.abs().amax(-1, keepdim=True) / 127
    assert ((found - tokens).abs() <= 0.5001 * step).all()


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16", "int8"])
def test_the_error_in_the_index_is_the_share_of_variance_lost(tmp_path, dtype):
    tokens = torch.randn(12, 4, 3, generator=torch.Generator().manual_seed(0)) * torch.rand(12, 1, 1) * 10
    tokens -= tokens.flatten(0, 1).mean(0)
    tokens[6:] -= tokens[6:].flatten(0, 1).mean(0) - (tokens[:6].flatten(0, 1).mean(0))  # both shards have one mean
    for attempt in range(2):  # the second time the first shard is there already
        writer = StoreWriter(tmp_path, replace(SPEC, dtype=dtype))
        for unit in range(attempt, 2):
            rows = slice(6 * unit, 6 * unit + 6)
            writer.write(unit, tokens[rows], torch.arange(12)[rows], torch.full((6,), 500))
    store = writer.finish()
    stored, original = store.load("tokens")["tokens"].double().numpy(), tokens.double().numpy()
    lost = np.square(stored - original).sum() / np.square(original - original.mean((0, 1))).sum()
    assert store.relative_mse == pytest.approx(lost, rel=1e-6, abs=1e-30)
    assert json.loads((tmp_path / "store.json").read_text())["relative_mse"] == store.relative_mse
    assert (lost == 0) if dtype == "fp32" else (0 < lost < 1e-3)


def test_an_int8_store_reads_like_any_other_and_is_refused_by_the_first_schema(tmp_path):
    store = fill(tmp_path, spec=replace(SPEC, dtype="int8"))
    assert json.loads((tmp_path / "store.json").read_text())["schema"] == 2
    expected = torch.arange(96).float()
    torch.testing.assert_close(store.load("tokens")["tokens"][:, :, 1].flatten(), expected)
    for memory_mb in (64, 0.0006):
        batches = list(islice(store.batches(8, seed=1, memory_mb=memory_mb), 12))
        found = torch.cat([b.tokens[:, 2] for b in batches])
        torch.testing.assert_close(found.sort().values, expected)
    assert list(store.load("image")) == ["image"]


def test_numbers_that_int8_would_hide_are_refused(tmp_path):
    for bad in (float("nan"), float("inf")):
        tokens = torch.zeros(2, 4, 3)
        tokens[1, 0, 0] = bad
        with pytest.raises(SparsightError, match=r"image 8 .*mid_block"):
            StoreWriter(tmp_path, replace(SPEC, dtype="int8")).write(0, tokens, torch.tensor([7, 8]), torch.zeros(2))


@pytest.mark.parametrize("memory_mb", [64, 0.0006])
def test_kept_positions_are_recorded_and_told_by_batches(tmp_path, memory_mb):
    store = fill(tmp_path, spec=replace(SPEC, kept=2, kept_seed=3))
    assert store.spec.positions == 2 and Store.open(tmp_path).spec == store.spec
    batches = list(islice(store.batches(8, seed=1, memory_mb=memory_mb), 6))
    number, position = (torch.cat(p).long() for p in zip(*[(b.tokens[:, 0], b.position) for b in batches], strict=True))
    assert torch.equal(number % 4, position) and len(number.unique()) == 48
    assert not torch.equal(fill(tmp_path / "b", spec=replace(SPEC, kept=2)).load("tokens")["tokens"],
                           store.load("tokens")["tokens"])  # fmt: skip
    with pytest.raises(SparsightError, match="5 positions of 4"):
        replace(SPEC, kept=5)
