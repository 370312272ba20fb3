"""Many stores from one pass: each the one it would be alone, at the price of the pass."""

import pytest
import torch

from sparsight import DiffusionModel, SparsightError
from sparsight.activations import HarvestConfig, Stream, harvest, harvest_streams
from stores import Pictures
from tiny import tiny_pipeline

SITES, STAGES = ("down_blocks.1", "mid_block:update"), ((500, 799), (800, 999))


@pytest.fixture
def model():
    return DiffusionModel.from_pipeline(tiny_pipeline(), name="tiny")


def streams(folder, **options):
    return {
        folder / f"{site.replace(':', '-')}_{low}": Stream(site=site, low=low, high=high, steps=10, **options)
        for site in SITES
        for low, high in STAGES
    }


def calls(model, module, run):
    """How often `run` calls a module of the denoiser."""
    seen = []
    handle = dict(model.denoiser.named_modules())[module].register_forward_hook(lambda *a: seen.append(0))
    run()
    handle.remove()
    return len(seen)


@pytest.mark.parametrize("options", [{"method": "noising"}, {"method": "inversion"}, {"refine": 1}])
def test_every_stream_is_the_store_it_would_be_alone(model, tmp_path, options):
    wanted = streams(tmp_path / "many", batch_size=2, **options)
    many = harvest_streams(model, Pictures(), wanted)
    assert [store.spec.timesteps for store in many[:2]] == [(500, 600, 700), (800, 900)]
    for (folder, stream), store in zip(wanted.items(), many, strict=True):
        alone = harvest(model, Pictures(), tmp_path / "alone" / folder.name, stream)
        assert store.digest == alone.digest and store.spec.site == stream.site


@pytest.mark.parametrize("method", ["noising", "inversion"])
def test_many_streams_cost_the_passes_of_one(model, tmp_path, method):
    model.sites()
    one = HarvestConfig(steps=10, method=method)
    single = calls(model, "conv_in", lambda: harvest(model, Pictures(), tmp_path / "one", one))
    wanted = streams(tmp_path, method=method)
    assert calls(model, "conv_in", lambda: harvest_streams(model, Pictures(), wanted)) == single


def test_noising_runs_nothing_after_the_last_site(model, tmp_path):
    model.sites()
    config = HarvestConfig(steps=10, method="noising")
    assert calls(model, "up_blocks.0", lambda: harvest(model, Pictures(), tmp_path, config)) == 0


def test_only_the_stream_that_misses_a_unit_is_done_again(model, tmp_path):
    wanted = streams(tmp_path, batch_size=2, method="noising")
    before = [store.digest for store in harvest_streams(model, Pictures(), wanted)]
    (list(wanted)[1] / "shard-00001.safetensors").unlink()
    kept, rest = next(iter(wanted)) / "shard-00001.safetensors", Pictures()
    written = kept.stat().st_mtime_ns
    assert [store.digest for store in harvest_streams(model, rest, wanted)] == before
    assert rest.drawn == [2, 3] and kept.stat().st_mtime_ns == written


def test_memory_is_bounded_in_words(model, tmp_path):
    wanted = streams(tmp_path, batch_size=64)
    with pytest.raises(SparsightError, match=r"batch_size of at most (\d+)") as caught:
        harvest_streams(model, Pictures(), wanted, memory_mb=1)
    most = int(str(caught.value).rsplit(" ", 1)[1])
    # five timesteps of two sites of 64 channels and 16 positions in fp16, with x_t of 3x8x8 in fp32
    least = 2 * 5 * (16 * 64 * 2 + 3 * 64 * 4)
    assert most * least <= 2**20 < 2 * (most + 1) * least
    assert len(harvest_streams(model, Pictures(), streams(tmp_path, batch_size=most), memory_mb=1)) == 4


def test_states_can_be_left_out(model, tmp_path):
    store = harvest(model, Pictures(), tmp_path, Stream(steps=10, keep_x_t=False))
    with pytest.raises(SparsightError, match="unknown store column 'x_t'"):
        store.load("x_t")


def test_streams_that_cannot_share_a_pass_are_refused(model, tmp_path):
    with pytest.raises(SparsightError, match="must share steps, but here are 10 and 20"):
        harvest_streams(model, Pictures(), {tmp_path / "a": Stream(steps=10), tmp_path / "b": Stream(steps=20)})
    with pytest.raises(SparsightError, match="at least one stream"):
        harvest_streams(model, Pictures(), {})
    with pytest.raises(SparsightError, match="text-to-image"):
        Stream(conditioning="unconditional")


def test_tokens_kept_of_a_harvest_are_those_of_the_whole_maps(model, tmp_path):
    whole = harvest(model, Pictures(), tmp_path / "whole", HarvestConfig(steps=10, batch_size=2, dtype="fp32"))
    some = harvest(model, Pictures(), tmp_path / "some", Stream(steps=10, batch_size=2, dtype="fp32", positions=3))
    columns, tokens = some.load("tokens", "position", "image"), whole.load("tokens")["tokens"]
    for row in range(len(some)):
        assert torch.equal(columns["tokens"][row], tokens[row, columns["position"][row].long()])
    for image in range(5):  # one choice of positions an image, whatever the timestep
        assert len(columns["position"][columns["image"] == image].unique(dim=0)) == 1
    assert len(columns["position"].unique(dim=0)) > 1
