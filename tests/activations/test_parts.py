"""Several processes fill one store: the same bytes, in any order, after any kill, finished by whoever comes last."""

import json
import uuid
from concurrent.futures import ThreadPoolExecutor

import fsspec
import pytest

from sparsight import DiffusionModel, SparsightError
from sparsight.activations import HarvestConfig, Store, Stream, harvest, harvest_part, harvest_streams
from sparsight.activations.parts import PartWriter
from sparsight.parallel import Part
from stores import Pictures
from tiny import tiny_pipeline

CONFIG = HarvestConfig(steps=10, batch_size=2, method="noising")


@pytest.fixture
def model():
    return DiffusionModel.from_pipeline(tiny_pipeline(), name="tiny")


@pytest.fixture
def whole(model, tmp_path):
    return harvest(model, Pictures(9), tmp_path / "whole", CONFIG)


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_parts_make_the_store_of_one_process(model, whole, tmp_path, order):
    drawn, done = [], []
    for rank in order:
        pictures = Pictures(9)
        done.append(harvest_part(model, pictures, {tmp_path / "parts": CONFIG}, Part(rank, 3)))
        drawn += pictures.drawn
        if len(done) < 3:
            with pytest.raises(SparsightError, match="is unfinished"):
                Store.open(tmp_path / "parts")
    assert done == [False, False, True] and sorted(drawn) == list(range(9))
    parts = Store.open(tmp_path / "parts")
    assert parts.digest == whole.digest and parts.relative_mse == pytest.approx(whole.relative_mse)
    assert files(tmp_path / "parts") == files(tmp_path / "whole")  # to the byte, and no note is left


def test_a_part_goes_on_where_it_was_killed(model, whole, tmp_path):
    def stop(done, total):
        assert total == 5  # units 0, 2 and 4 of nine images: two, two and one
        if done == 4:
            raise KeyboardInterrupt

    streams = {tmp_path / "parts": CONFIG}
    with pytest.raises(KeyboardInterrupt):
        harvest_part(model, Pictures(9), streams, Part(0, 2), progress=stop)
    assert not harvest_part(model, Pictures(9), streams, Part(1, 2))
    (tmp_path / "parts" / "note-00002.json").unlink()  # killed between a shard and its note: that unit is done again
    rest = Pictures(9)
    assert harvest_part(model, rest, streams, Part(0, 2)) and rest.drawn == [4, 5, 8]
    assert Store.open(tmp_path / "parts").digest == whole.digest
    again = Pictures(9)
    assert harvest_part(model, again, streams, Part(1, 2)) and not again.drawn  # a finished store is left alone


def test_one_process_and_several_go_on_from_each_other(model, whole, tmp_path):
    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        harvest(model, Pictures(9), tmp_path / "a", CONFIG, progress=stop)
    rest = Pictures(9)
    assert harvest_part(model, rest, {tmp_path / "a": CONFIG}, Part(0, 1)) and rest.drawn == list(range(2, 9))
    harvest_part(model, Pictures(9), {tmp_path / "b": CONFIG}, Part(1, 2))
    harvest(model, Pictures(9), tmp_path / "b", CONFIG)
    for name in ("a", "b"):
        found = Store.open(tmp_path / name)
        assert found.digest == whole.digest and found.relative_mse == pytest.approx(whole.relative_mse)
        assert sorted(files(tmp_path / name)) == sorted(files(tmp_path / "whole"))


def test_those_who_finish_at_once_do_not_disturb_each_other(model, whole, tmp_path):
    writers = []
    for rank in range(8):
        harvest_part(model, Pictures(9), {tmp_path / "parts": CONFIG}, Part(rank, 8))
        (tmp_path / "parts" / "store.json").exists()
    index = json.loads((tmp_path / "parts" / "store.json").read_text())
    for _ in range(20):  # from the state just before the end, as often as it takes to meet in it
        _unfinish(tmp_path / "parts", whole, index)
        plan = json.loads((tmp_path / "parts" / "note-00000.json").read_text())["plan"]
        writers = [PartWriter(tmp_path / "parts", whole.spec, 5, plan) for _ in range(4)]
        with ThreadPoolExecutor(4) as pool:
            assert all(pool.map(PartWriter.finish_if_whole, writers))
        assert files(tmp_path / "parts") == files(tmp_path / "whole")


def _unfinish(folder, whole, index):
    (folder / "store.json").write_text(json.dumps(index | {"finished": False, "shards": [], "errors": {}}))
    for unit, shard in enumerate(whole.shards):
        note = {"plan": "p", "shard": shard._asdict(), "error": index["errors"][str(unit)]}
        (folder / f"note-{unit:05d}.json").write_text(json.dumps(note))


def test_parts_of_many_streams_in_a_bucket(model, tmp_path):
    bucket = f"memory://parts-{uuid.uuid4().hex}"
    kinds = {
        low: Stream(steps=10, batch_size=2, method="noising", low=low, high=low + 199, dtype="int8")
        for low in (500, 800)
    }
    alone = harvest_streams(model, Pictures(), {tmp_path / str(low): kind for low, kind in kinds.items()})
    streams = {f"{bucket}/{low}": kind for low, kind in kinds.items()}
    assert [harvest_part(model, Pictures(), streams, Part(rank, 2)) for rank in (1, 0)] == [False, True]
    assert [Store.open(uri).digest for uri in streams] == [store.digest for store in alone]
    left = {path.rsplit("/", 1)[1] for path in fsspec.filesystem("memory").find(bucket)}
    assert left == {path.name for path in (tmp_path / "500").iterdir()}
    fsspec.filesystem("memory").rm(bucket, recursive=True)


def test_another_plan_is_refused(model, tmp_path):
    harvest_part(model, Pictures(9), {tmp_path: CONFIG}, Part(0, 2))
    with pytest.raises(SparsightError, match="filled with other images or another batch size"):
        harvest_part(model, Pictures(9), {tmp_path: CONFIG}, Part(0, 2), numbers=[3, 4, 5])
