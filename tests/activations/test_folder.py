"""A bucket works as a folder: the same bytes, the same refusals."""

import uuid
from itertools import islice

import fsspec
import pytest
import torch

from sparsight import DiffusionModel, SparsightError
from sparsight.activations import HarvestConfig, Store, StoreWriter, harvest, remote
from stores import SPEC, Pictures, fill
from tiny import tiny_pipeline


@pytest.fixture
def bucket():
    uri = f"memory://bucket-{uuid.uuid4().hex}/store"
    yield uri
    fsspec.filesystem("memory").rm(uri.rsplit("/", 1)[0], recursive=True)


def content(uri, name):
    return fsspec.filesystem("memory").cat_file(f"{uri}/{name}")


@pytest.mark.parametrize("whole_objects", [True, False])
def test_a_bucket_holds_what_a_folder_holds(bucket, tmp_path, monkeypatch, whole_objects):
    if not whole_objects:  # as on a server where half a file can be seen
        monkeypatch.setattr(remote, "_WHOLE_OBJECTS", set())
    here, there = fill(tmp_path, x_t=torch.ones(6, 1)), fill(bucket, x_t=torch.ones(6, 1))
    assert there.digest == here.digest and Store.open(bucket).digest == here.digest
    names = {path.rsplit("/", 1)[1] for path in fsspec.filesystem("memory").ls(bucket, detail=False)}
    assert names == {path.name for path in tmp_path.iterdir()}
    for name in ("tokens", "image", "t", "x_t"):
        assert torch.equal(there.load(name, images=[1, 4])[name], here.load(name, images=[1, 4])[name])
    for memory_mb in (64, 0.0006):
        pairs = [islice(s.batches(7, seed=1, memory_mb=memory_mb, start=2), 20) for s in (here, there)]
        for ours, theirs in zip(*pairs, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_a_harvest_into_a_bucket_goes_on_where_it_was_killed(bucket, tmp_path):
    model = DiffusionModel.from_pipeline(tiny_pipeline(), name="tiny")
    config = HarvestConfig(steps=10, batch_size=2, method="noising")

    def stop(done, total):
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        harvest(model, Pictures(), bucket, config, progress=stop)
    with pytest.raises(SparsightError, match="unfinished"):
        Store.open(bucket)
    rest = Pictures()
    assert harvest(model, rest, bucket, config).digest == harvest(model, Pictures(), tmp_path, config).digest
    assert rest.drawn == [4]


def test_damage_in_a_bucket_is_named(bucket):
    fill(bucket)
    good = content(bucket, "shard-00001.safetensors")
    for bad, word in ((good[:-1] + b"?", "content differs"), (good[:-9], "truncated"), (b"\xff" * 40, "truncated")):
        fsspec.filesystem("memory").pipe_file(f"{bucket}/shard-00001.safetensors", bad)
        with pytest.raises(SparsightError, match=rf"shard-00001.*{word}"):
            Store.open(bucket)
    assert not StoreWriter(bucket, SPEC).has(1)
    fsspec.filesystem("memory").rm(f"{bucket}/shard-00001.safetensors")
    with pytest.raises(SparsightError, match=r"shard-00001.*missing"):
        Store.open(bucket)


def test_places_that_do_not_exist_say_so(tmp_path):
    with pytest.raises(SparsightError, match=r"store\.json does not exist"):
        Store.open("memory://nowhere/at/all")
    with pytest.raises(SparsightError, match="cannot open nosuchscheme://x"):
        Store.open("nosuchscheme://x")
    fill(tmp_path)
    assert len(Store.open(f"file://{tmp_path}")) == 24  # a local folder, by its URI
