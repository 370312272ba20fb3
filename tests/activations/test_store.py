"""The store: whole or refused, and a reader that shuffles, covers and restarts exactly."""

import json
import resource
from dataclasses import replace
from itertools import islice

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsight.activations import Store, StoreWriter
from sparsight.errors import SparsightError
from stores import SPEC, fill


def stream(store, count, **options):
    return list(islice(store.batches(**options), count))


@pytest.mark.parametrize(
    ("dtype", "digest"), [("fp32", "8c24f0e62a08f0e9"), ("fp16", "c8de9074ebbc6942"), ("bf16", "7cd6647d02995ad1")]
)
def test_a_plain_store_has_the_digest_that_the_first_version_gave_it(tmp_path, dtype, digest):
    store = fill(tmp_path, spec=replace(SPEC, dtype=dtype), x_t=torch.ones(6, 1, 2, 2))
    assert store.digest == digest
    index = json.loads((tmp_path / "store.json").read_text())
    assert index["schema"] == 1
    first = {name: index[name] for name in ("schema", "finished", "spec", "shards", "digest")}  # all it wrote
    (tmp_path / "store.json").write_text(json.dumps(first))
    old = Store.open(tmp_path)
    assert old.digest == digest and old.spec == store.spec and old.relative_mse is None
    assert StoreWriter(tmp_path, store.spec).finish().digest == digest


def test_columns_come_back_as_written(tmp_path):
    x_t = torch.randn(6, 3, 4, 4).half()
    store = fill(tmp_path, units=2, x_t=x_t)
    assert len(store) == 12 and store.spec == SPEC
    assert torch.equal(store.load("x_t")["x_t"], torch.cat([x_t, x_t]))
    some = store.load("tokens", "image", "t", images=[1, 4])
    assert some["image"].tolist() == [1, 1, 4, 4] and some["t"].tolist() == [500, 900] * 2
    assert some["tokens"][:, 0, 0].tolist() == [8.0, 12.0, 32.0, 36.0]
    assert store.images.tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_storage_types_round(tmp_path, dtype):
    store = fill(tmp_path, spec=replace(SPEC, dtype=dtype))
    tokens = store.load("tokens")["tokens"]
    assert tokens.dtype == torch.float32
    torch.testing.assert_close(tokens[:, :, 0].flatten(), torch.arange(96).float(), rtol=0.01, atol=0)


@pytest.mark.parametrize("memory_mb", [64, 0.0006])
def test_an_epoch_holds_each_token_once_and_knows_where_it_is_from(tmp_path, memory_mb):
    store = fill(tmp_path)
    batches = stream(store, 3 * 12, batch_size=8, seed=1, memory_mb=memory_mb)
    for epoch in range(3):
        numbers = torch.cat([b.tokens[:, 0] for b in batches[epoch * 12 : (epoch + 1) * 12]])
        assert sorted(numbers.int().tolist()) == list(range(96))
    for batch in batches:
        row, position = batch.tokens[:, 0].long() // 4, batch.tokens[:, 0].long() % 4
        assert torch.equal(position, batch.position)
        assert torch.equal(store.ids["image"][row], batch.image) and torch.equal(store.ids["t"][row], batch.t)


@settings(max_examples=25, deadline=None)
@given(
    batch_size=st.integers(1, 150),
    start=st.integers(0, 20),
    memory_mb=st.sampled_from([64, 0.003, 0.0003]),
    images=st.sampled_from([None, [1, 4, 5], [0]]),
)
def test_the_reader_restarts_exactly(store, batch_size, start, memory_mb, images):
    options = {"batch_size": batch_size, "seed": 3, "memory_mb": memory_mb, "images": images}
    whole = stream(store, start + 3, **options)
    for ours, theirs in zip(stream(store, 3, start=start, **options), whole[start:], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
        assert len(ours.image) == batch_size
        assert images is None or set(ours.image.tolist()) <= set(images)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return fill(tmp_path_factory.mktemp("store"))


def test_seeds_and_epochs_differ(store):
    first, second = stream(store, 2, batch_size=96, seed=1)
    (other,) = stream(store, 1, batch_size=96, seed=2)
    assert not torch.equal(first.tokens, second.tokens) and not torch.equal(first.tokens, other.tokens)


def test_a_small_buffer_still_mixes_the_whole_store(tmp_path):
    """With room for an eighth of the maps a buffer draws on nearly as many shards as chance allows."""
    store = fill(tmp_path, units=16, maps=16, spec=replace(SPEC, channels=3))
    memory = 32 * 4 * (3 * 4 + 8) / 2**20
    (batch,) = stream(store, 1, batch_size=64, seed=0, memory_mb=memory)
    shares = torch.bincount(batch.tokens[:, 0].long() // 64, minlength=16) / 64
    entropy = -(shares * shares.clamp_min(1e-9).log()).sum() / torch.tensor(16.0).log()
    assert entropy > 0.6  # one shard alone gives 0, perfect mixing of 64 draws gives about 0.95


def test_a_killed_harvest_goes_on(tmp_path):
    writer = StoreWriter(tmp_path, SPEC)
    writer.write(0, torch.ones(2, 4, 3), torch.arange(2), torch.tensor([500, 900]))
    (tmp_path / ".shard-00001.safetensors.x.part").write_bytes(b"half")
    with pytest.raises(SparsightError, match="unfinished"):
        Store.open(tmp_path)
    again = StoreWriter(tmp_path, SPEC)
    assert again.has(0) and not again.has(1)
    again.write(1, torch.ones(2, 4, 3), torch.arange(2, 4), torch.tensor([500, 900]))
    assert len(again.finish()) == 4


def test_a_torn_shard_is_not_counted_as_done(tmp_path):
    fill(tmp_path)
    path = tmp_path / "shard-00002.safetensors"
    path.write_bytes(path.read_bytes()[:-5])
    assert not StoreWriter(tmp_path, SPEC).has(2)
    with pytest.raises(SparsightError, match=r"shard-00002.*truncated"):
        Store.open(tmp_path)


def test_damaged_stores_are_refused(tmp_path):
    fill(tmp_path)
    path = tmp_path / "shard-00001.safetensors"
    good = path.read_bytes()
    path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(SparsightError, match=r"shard-00001.*corrupt"):
        Store.open(tmp_path)
    path.unlink()
    with pytest.raises(SparsightError, match=r"shard-00001.*missing"):
        Store.open(tmp_path)
    index = tmp_path / "store.json"
    index.write_text(index.read_text().replace('"schema": 1', '"schema": 9'))
    with pytest.raises(SparsightError, match="schema 9"):
        Store.open(tmp_path)


def test_damaged_shards_can_be_left_out_by_name(tmp_path):
    store = fill(tmp_path)
    path = tmp_path / "shard-00001.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.warns(UserWarning, match=r"left out.*shard-00001.*corrupt"):
        rest = Store.open(tmp_path, damaged="skip")
    assert rest.images.tolist() == [0, 1, 2, 6, 7, 8, 9, 10, 11] and rest.digest != store.digest
    (batch,) = stream(rest, 1, batch_size=72, seed=0)
    assert sorted(batch.tokens[:, 0].int().tolist()) == [*range(24), *range(48, 96)]
    with pytest.raises(SparsightError, match=r"unknown treatment .* 'ignore'"):
        Store.open(tmp_path, damaged="ignore")


def test_a_full_disk_stops_cleanly_and_the_rest_can_be_written_later(tmp_path):
    whole = fill(tmp_path / "whole")
    writer = StoreWriter(tmp_path / "a", SPEC)
    rows = (torch.ones(400, 4, 3), torch.arange(400), torch.full((400,), 500))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))  # no file may grow past this, as on a full disk
    try:
        with pytest.raises(SparsightError, match=r"cannot write .*shard-00000"):
            writer.write(0, *rows)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["store.json"]
    assert not writer.has(0)
    assert fill(tmp_path / "a").digest == whole.digest


def test_bad_activations_name_image_and_site(tmp_path):
    tokens = torch.zeros(2, 4, 3)
    tokens[1, 2, 0] = 1e6  # finite, but not in fp16
    with pytest.raises(SparsightError, match=r"image 8 .*mid_block"):
        StoreWriter(tmp_path, replace(SPEC, dtype="fp16")).write(0, tokens, torch.tensor([7, 8]), torch.zeros(2))


def test_mismatches_name_both_sides(tmp_path):
    store = fill(tmp_path)
    store.require(model_hash="abc", site="mid_block")
    with pytest.raises(SparsightError, match=r"abc.*xyz"):
        store.require(model_hash="xyz", site="mid_block")
    with pytest.raises(SparsightError, match=r"mid_block.*up_block"):
        store.require(model_hash="abc", site="up_block")
    with pytest.raises(SparsightError, match=r"site 'mid_block', not 'other'"):
        StoreWriter(tmp_path, replace(SPEC, site="other"))
    with pytest.raises(SparsightError, match="unknown store column 'token'"):
        store.load("token")
    with pytest.raises(SparsightError, match="none of the chosen images"):
        store.load("tokens", images=[99])
    with pytest.raises(SparsightError, match="tokens at mid_block must be"):
        StoreWriter(tmp_path, SPEC).write(9, torch.zeros(2, 5, 3), torch.zeros(2), torch.zeros(2))


def test_one_timestep_of_some_images_is_loaded_alone(tmp_path):
    store = fill(tmp_path)
    whole = store.load("tokens", "image", "t")
    for images in (None, [1, 5]):
        found = store.load("tokens", "image", t=900, images=images)
        wanted = whole["t"] == 900
        if images is not None:
            wanted &= torch.isin(whole["image"], torch.tensor(images))
        assert torch.equal(found["tokens"], whole["tokens"][wanted])
        assert torch.equal(found["image"], whole["image"][wanted])
    with pytest.raises(SparsightError, match="no timestep 123"):
        store.load("tokens", t=123)
