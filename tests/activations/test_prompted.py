"""Streams of a text-to-image model: generated from prompts, by site, stage and half of guidance."""

from itertools import islice

import pytest
import torch

from sparsight import DiffusionModel, LiveStore, Loop, Prompts, PromptStream, SparsightError, Stream, harvest, sample
from sparsight.activations import harvest_streams, prompt_streams, start_noise
from sparsight.diffusion import walk
from sparsight.images import Folder
from stores import Pictures
from tiny import tiny_pipeline
from tiny_text import SITES, tiny_text_model

TEXTS = ["a cat", "a dog on a cat", "", "dog", "a cat on a dog"]
UPDATE = f"{SITES[1]}:update"
STAGES = {"early": (0,), "middle": (4,), "final": (-1,)}


@pytest.fixture(scope="module")
def model():
    return tiny_text_model()


def streams(folder, **options):
    settings = {"steps": 8, "batch_size": 2, "dtype": "fp32", "guidance": 5.0} | options
    wanted = prompt_streams(tuple(f"{site}:update" for site in SITES), STAGES, **settings)
    return {folder / name: stream for name, stream in wanted.items()}


def test_eighteen_streams_come_from_one_pass_and_each_is_what_it_would_be_alone(model, tmp_path):
    seen = []
    handle = model.denoiser.conv_in.register_forward_hook(lambda *a: seen.append(len(a[2])))
    stores = harvest_streams(model, Prompts(TEXTS), streams(tmp_path / "many"))
    handle.remove()
    assert len(stores) == 18
    assert seen == [4] * 8 + [4] * 8 + [2] * 8  # a call for each step of each batch, both halves in it
    for (folder, stream), store in list(zip(streams(tmp_path).items(), stores, strict=True))[::5]:
        alone = harvest(model, Prompts(TEXTS), tmp_path / "alone" / folder.name, stream)
        assert alone.digest == store.digest and store.spec.conditioning == stream.conditioning


def test_the_tokens_are_those_of_the_prompts_own_images(model, tmp_path):
    stored = harvest_streams(model, Prompts(TEXTS), streams(tmp_path))
    told = model.encode_prompts(TEXTS, guidance=5.0)
    stamps = [t for t, _ in model.pairs(8)]
    with model.capture([UPDATE], at=stamps) as tape:
        list(walk(model, start_noise(model, 0, range(5)), Loop(steps=8), conditioning=told))
    for store in stored:
        if store.spec.site != UPDATE:
            continue
        columns = store.load("tokens", "image", "t")
        assert sorted(columns["image"].tolist()) == list(range(5))
        for tokens, image, t in zip(columns["tokens"], columns["image"], columns["t"], strict=True):
            rows = tape.past[int(t)][UPDATE]  # (uncond, cond), five rows each
            expected = rows[int(image) + (5 if store.spec.conditioning == "cond" else 0)]
            torch.testing.assert_close(tokens, expected, atol=1e-5, rtol=1e-4)


def test_noise_is_a_function_of_seed_and_number_alone(model):
    together = start_noise(model, 3, [0, 7, 2])
    assert torch.equal(together[1:2], start_noise(model, 3, [7]))
    assert not torch.equal(together[0], together[1]) and not torch.equal(together[1:2], start_noise(model, 4, [7]))


def test_states_and_images_can_be_kept(model, tmp_path):
    stream = PromptStream(UPDATE, steps=8, at=(0, 3), dtype="fp32", batch_size=2, keep_x_t=True)
    store = harvest_streams(model, Prompts(TEXTS), {tmp_path / "s": stream}, images_to=tmp_path / "images")[0]
    columns = store.load("x_t", "image", "t")
    first = columns["t"] == max(store.spec.timesteps)
    torch.testing.assert_close(columns["x_t"][first], start_noise(model, 0, columns["image"][first].tolist()))
    kept = Folder(tmp_path / "images", model.image_size)
    told = model.encode_prompts(TEXTS)
    latents = sample(model, start_noise(model, 0, range(5)), Loop(steps=8), conditioning=told)
    torch.testing.assert_close(kept.batch(range(5)), model.decode(latents).clamp(-1, 1), atol=1 / 127, rtol=0)


def test_a_lost_image_and_a_lost_shard_are_made_again_and_nothing_else(model, tmp_path):
    wanted = streams(tmp_path / "s")
    before = [s.digest for s in harvest_streams(model, Prompts(TEXTS), wanted, images_to=tmp_path / "images")]
    files = sorted((tmp_path / "images").iterdir())
    pixels = files[4].read_bytes()
    files[4].unlink()
    (list(wanted)[3] / "shard-00000.safetensors").unlink()
    states = []
    handle = model.denoiser.conv_in.register_forward_hook(lambda *a: states.append(0))
    again = harvest_streams(model, Prompts(TEXTS), wanted, images_to=tmp_path / "images")
    handle.remove()
    assert [s.digest for s in again] == before and files[4].read_bytes() == pixels
    assert len(states) == 2 * 8  # two of three batches


def test_only_the_steps_up_to_the_last_wanted_are_run_and_nothing_after_the_site(model, tmp_path):
    called = {"conv_in": 0, "conv_out": 0}
    handles = [
        getattr(model.denoiser, name).register_forward_hook(lambda *a, n=name: called.update({n: called[n] + 1}))
        for name in called
    ]
    harvest(model, Prompts("a cat"), tmp_path / "a", PromptStream(UPDATE, steps=8, at=(0,)))
    assert called == {"conv_in": 1, "conv_out": 0}  # the first step's composition, before any model output
    harvest(model, Prompts("a cat"), tmp_path / "b", PromptStream(UPDATE, steps=8, at=(2,)))
    assert called == {"conv_in": 4, "conv_out": 2}
    for handle in handles:
        handle.remove()


def test_stages_can_be_ranges_of_timesteps(model):
    assert PromptStream(steps=10, low=200, high=599).stamps(model) == [201, 301, 401, 501]
    assert PromptStream(steps=50, at=(0, 24, -1)).stamps(model) == [1, 501, 981]


def test_a_live_store_reads_the_tokens_of_a_harvest(model, tmp_path):
    stream = PromptStream(UPDATE, steps=8, at=(0, 3), dtype="fp32", batch_size=2, conditioning="uncond")
    store = harvest(model, Prompts(TEXTS), tmp_path, stream)
    live = LiveStore(model, Prompts(TEXTS), stream, prefetch=False)
    assert live.spec == store.spec
    (batch,) = islice(live.batches(len(live) * live.spec.positions, seed=0), 1)
    columns = store.load("tokens", "image", "t")
    for row in (0, 41, 159):
        place = (columns["image"] == batch.image[row]) & (columns["t"] == batch.t[row])
        expected = columns["tokens"][place][0, batch.position[row]]
        torch.testing.assert_close(batch.tokens[row], expected, atol=1e-5, rtol=1e-4)


def test_prompts_come_from_lists_and_files(tmp_path):
    (tmp_path / "p.txt").write_text("a cat\n\n  a dog \n", "utf-8")
    read = Prompts.read(tmp_path / "p.txt")
    assert read.batch([1, 0]) == ["a dog", "a cat"] and len(read) == 2
    assert read.name.startswith("p.txt (2 prompts, ") and read.name != Prompts(["a", "b"], "p.txt").name
    assert Prompts(["", "a"]).batch([0]) == [""]
    (tmp_path / "p.txt").write_bytes(b"\xff\xfe")
    for bad, words in ((tmp_path / "p.txt", "not UTF-8"), (tmp_path / "nowhere.txt", "No such file")):
        with pytest.raises(SparsightError, match=words):
            Prompts.read(bad)
    (tmp_path / "p.txt").write_text("\n \n")
    with pytest.raises(SparsightError, match="holds no prompts"):
        Prompts.read(tmp_path / "p.txt")
    with pytest.raises(SparsightError, match="prompt 1 of prompts must be a text, not int"):
        Prompts(["a", 3])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"conditioning": "con"}, "did you mean 'cond'"),
        ({"conditioning": ""}, "unknown conditioning"),
        ({"at": (8,), "steps": 8}, "step 8 is to be harvested, but the run has steps 0 to 7"),
        ({"guidance": 0}, "must be at least 1"),
        ({"conditioning": "uncond", "guidance": 1}, "at 1 that half is not run"),
        ({"method": "inversion"}, "unknown harvest method"),
    ],
)
def test_bad_streams_are_refused(options, words):
    with pytest.raises(SparsightError, match=words):
        PromptStream(**options)


def test_sources_models_and_streams_that_do_not_fit_are_refused_before_anything_is_written(model, tmp_path):
    plain = DiffusionModel.from_pipeline(tiny_pipeline(), name="plain")
    with pytest.raises(SparsightError, match="plain takes no prompts: harvest it from images"):
        harvest(plain, Prompts("a"), tmp_path, PromptStream("mid_block"))
    with pytest.raises(SparsightError, match="harvest it from prompts, with PromptStream"):
        harvest(model, Pictures(), tmp_path, Stream())
    with pytest.raises(SparsightError, match="images_to keeps generated images"):
        harvest_streams(plain, Pictures(), {tmp_path: Stream(steps=10)}, images_to=tmp_path)
    with pytest.raises(SparsightError, match="must share guidance, but here are"):
        harvest_streams(model, Prompts("a"), {"a": PromptStream(UPDATE), "b": PromptStream(UPDATE, guidance=2)})
    assert not list(tmp_path.iterdir())
    harvest(model, Prompts(["a"]), tmp_path, PromptStream(UPDATE, steps=8, at=(0,)))
    with pytest.raises(SparsightError, match="holds a store with source"):
        harvest(model, Prompts(["b"]), tmp_path, PromptStream(UPDATE, steps=8, at=(0,)))
