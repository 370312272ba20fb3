"""Stream mode: the model's own tokens, each once an epoch, from a bounded buffer, restartable at any batch."""

import gc
import threading
import weakref
from itertools import islice

import pytest
import torch

from sparsight import DiffusionModel, LiveStore, SparsightError, Stream, harvest
from sparsight.activations.encoding import generator
from sparsight.activations.live import LiveSource
from sparsight.activations.prefetch import ahead
from sparsight.sae import TrainConfig, train_sae
from stores import Pictures
from tiny import tiny_pipeline

CONFIG = Stream(steps=10, method="noising", dtype="fp32", batch_size=8, seed=5)
SMALL = 0.15  # MB: a map is 16 tokens of 64 channels in fp32, so this is 16 maps a buffer of 25 in an epoch


@pytest.fixture(scope="module")
def model():
    return DiffusionModel.from_pipeline(tiny_pipeline(), name="tiny")


def read(live, count, **options):
    return list(islice(live.batches(**{"batch_size": 50, "seed": 1, **options}), count))


def same(ours, theirs):
    return all(torch.equal(a, b) for x, y in zip(ours, theirs, strict=True) for a, b in zip(x, y, strict=True))


@pytest.mark.parametrize("memory_mb", [64, SMALL])
def test_an_epoch_is_what_the_model_says_once_of_every_image_timestep_and_position(model, memory_mb):
    batches = read(LiveStore(model, Pictures(), CONFIG), 16, memory_mb=memory_mb)
    for epoch in range(2):
        tokens, image, t, position = map(torch.cat, zip(*batches[8 * epoch : 8 * epoch + 8], strict=True))
        seen = set(zip(image.tolist(), t.tolist(), position.tolist(), strict=True))
        assert seen == {(i, s, p) for i in range(5) for s in (500, 600, 700, 800, 900) for p in range(16)}
        for row in (0, 201, 399):
            clean = Pictures().batch([int(image[row])])
            noise = torch.randn(1, 3, 8, 8, generator=generator(5, epoch, int(image[row]), int(t[row])))
            signal = model.scheduler.alphas_cumprod[int(t[row])]
            with torch.no_grad(), model.capture(["mid_block"]) as tape:
                model.predict(signal.sqrt() * clean + (1 - signal).sqrt() * noise, int(t[row]))
            torch.testing.assert_close(tokens[row], tape["mid_block"][0, position[row]], atol=1e-4, rtol=1e-4)


def test_inversion_gives_the_tokens_of_a_harvest(model, tmp_path):
    config = Stream(steps=10, dtype="fp32", batch_size=2, positions=4)
    store = harvest(model, Pictures(), tmp_path, config)
    columns = store.load("tokens", "image", "t", "position")
    place = {(int(i), int(t)): row for row, (i, t) in enumerate(zip(columns["image"], columns["t"], strict=True))}
    (batch,) = read(LiveStore(model, Pictures(), config), 1, batch_size=100)
    for token, image, t, position in zip(*batch, strict=True):
        row = place[int(image), int(t)]
        where = columns["position"][row].tolist().index(int(position))
        torch.testing.assert_close(token, columns["tokens"][row, where], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dtype", ["fp32", "int8"])
def test_it_goes_on_from_any_batch_with_or_without_the_thread(model, dtype):
    config = Stream(steps=10, method="noising", dtype=dtype, batch_size=8, positions=7)
    live = LiveStore(model, Pictures(), config, prefetch=False)
    whole = read(live, 24, memory_mb=SMALL / 4)
    for start in (3, 17):
        assert same(read(live, 5, memory_mb=SMALL / 4, start=start), whole[start : start + 5])
    # the thread takes half of the memory for the buffer that it makes ahead
    assert same(read(LiveStore(model, Pictures(), config), 24, memory_mb=SMALL / 2), whole)
    assert not same(read(live, 24, memory_mb=SMALL / 4, seed=2), whole)


def test_two_readers_of_one_model_do_not_hear_each_other(model):
    live = LiveStore(model, Pictures(), CONFIG)
    alone = read(live, 20, memory_mb=SMALL), read(live, 20, memory_mb=SMALL, seed=2, images=[0, 3])
    one = live.batches(50, seed=1, memory_mb=SMALL)
    two = live.batches(50, seed=2, memory_mb=SMALL, images=[0, 3])
    pairs = [(next(one), next(two)) for _ in range(20)]
    assert same([a for a, _ in pairs], alone[0]) and same([b for _, b in pairs], alone[1])
    assert set(torch.cat([b.image for _, b in pairs]).tolist()) == {0, 3}


def test_buffers_fit_the_memory_that_is_given(model):
    live = LiveStore(model, Pictures(40), CONFIG)
    source = LiveSource(live, SMALL, live.numbers)
    sizes = [source.count(plan) for plan in source.plans(seed=0, epoch=0)]
    assert sum(sizes) == 40 * 5 * 16 and max(sizes) - min(sizes) <= 4 * 4 * 16
    assert 2 * max(sizes) * 64 * 4 <= SMALL * 2**20
    with pytest.raises(SparsightError, match=r"memory_mb is 0\.001"):
        read(live, 1, memory_mb=0.001)


def test_a_thread_makes_one_thing_ahead_and_no_more():
    class Thing:
        pass

    made, most = weakref.WeakSet(), []

    def make(_plan):
        thing = Thing()
        made.add(thing)
        most.append(len(made))
        return thing

    for thing in ahead(make, iter(range(20)), threading.Event()):
        assert isinstance(thing, Thing)
        del thing
    assert len(most) == 20 and max(most) <= 2


def test_errors_of_the_thread_reach_the_reader_and_a_reader_who_leaves_ends_it(model):
    class Broken(Pictures):
        def batch(self, numbers):
            raise SparsightError("image 3 is broken")

    with pytest.raises(SparsightError, match="image 3 is broken"):
        read(LiveStore(model, Broken(), CONFIG), 1)
    batches = LiveStore(model, Pictures(), CONFIG).batches(50, seed=0, memory_mb=SMALL)
    next(batches)
    assert any(thread.name == "sparsight-prefetch" for thread in threading.enumerate())
    batches.close()
    gc.collect()
    assert not any(thread.name == "sparsight-prefetch" for thread in threading.enumerate())


def test_training_on_it_resumes_with_the_same_weights(model, tmp_path):
    live = LiveStore(model, Pictures(), CONFIG)
    config = TrainConfig(d_sae=16, steps=12, batch_size=64, checkpoint_every=3, log_every=1, memory_mb=SMALL)

    def kill(step, total, metrics):
        if step == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_sae(live, config, tmp_path / "a", kill)
    resumed = train_sae(live, config, tmp_path / "a", validation=[1])
    whole = train_sae(live, config, tmp_path / "b")
    assert all(torch.equal(a, b) for a, b in zip(resumed.parameters(), whole.parameters(), strict=True))
    assert resumed.extra["store"] == live.digest


def test_what_makes_other_tokens_makes_another_digest(model):
    digests = {
        LiveStore(model, Pictures(), config, numbers=numbers).digest
        for config in (CONFIG, Stream(steps=10, method="noising", dtype="fp32", batch_size=8, seed=6))
        for numbers in (None, [0, 1])
    }
    assert len(digests) == 4
    with pytest.raises(SparsightError, match="none of the chosen images"):
        LiveStore(model, Pictures(), CONFIG).rows([99])
