"""The scenes' networks are ordinary ones, the skip-free U-Net equals its export, and a build fits together."""

import pytest
import torch
from diffusers import StableDiffusionPipeline

from sparsight import SparsightError
from sparsight.pipeline.reporter import Silent
from sparsight.worlds import load_avatars, load_world
from sparsight.worlds.scenes import denoiser as dn
from sparsight.worlds.scenes import unet as un
from sparsight.worlds.scenes.annotators import SEGMENTS, boxes, build_annotator, segment_logits, segments
from sparsight.worlds.scenes.build import build
from sparsight.worlds.scenes.captions import vocabulary
from sparsight.worlds.scenes.generate import attention_blocks, generate, recording, replacing, stage_steps
from sparsight.worlds.scenes.quality import mean_iou
from sparsight.worlds.scenes.text import build_text_encoder, build_tokenizer, encode_words
from sparsight.worlds.scenes.world import ScenesWorld


def test_the_exported_unet_is_the_one_that_was_trained():
    torch.manual_seed(0)
    trained = un.without_skips(un.build_unet())
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    exported = un.export_unet(trained.eval())
    x, t, states = torch.randn(2, 8, 16, 16), torch.tensor([3, 800]), torch.randn(2, 24, 128)
    with torch.no_grad():
        expected = trained(x, t, encoder_hidden_states=states).sample
        torch.testing.assert_close(exported(x, t, encoder_hidden_states=states).sample, expected, atol=1e-4, rtol=1e-4)
    assert not list(exported.up_blocks[0]._forward_pre_hooks)


def test_text_enters_on_the_way_down_in_the_middle_and_on_the_way_up():
    names = list(attention_blocks(un.build_unet()))
    assert names == [
        "down_blocks.0.attentions.0", "up_blocks.1.attentions.0", "up_blocks.1.attentions.1", "mid_block.attentions.0"
    ]  # fmt: skip


def test_every_word_is_one_token_and_other_words_are_spelt():
    tokenizer = build_tokenizer()
    for word in vocabulary():
        assert len(tokenizer.tokenize(word)) == 1
    assert len(tokenizer.tokenize("zebra")) > 1
    assert (
        tokenizer.decode(tokenizer("a cat, an umbrella").input_ids, skip_special_tokens=True) == "a cat , an umbrella"
    )


def test_the_tokenizer_survives_saving(tmp_path):
    from transformers import AutoTokenizer, CLIPTokenizer

    texts = ["a cat and a dog on a beach, pencil drawing", "", "a zebra"]
    build_tokenizer().save_pretrained(str(tmp_path))
    for kind in (CLIPTokenizer, AutoTokenizer):
        assert torch.equal(
            encode_words(kind.from_pretrained(str(tmp_path)), texts), encode_words(build_tokenizer(), texts)
        )


def test_states_differ_between_prompts():
    encoder, tokenizer = build_text_encoder().eval(), build_tokenizer()
    with torch.no_grad():
        states = encoder(input_ids=encode_words(tokenizer, ["a cat", "a dog", "a cat"])).last_hidden_state
    assert states.shape == (3, 24, 128) and torch.equal(states[0], states[2]) and not torch.equal(states[0], states[1])


def test_boxes_hold_their_kind():
    found = torch.zeros(2, 64, 64, dtype=torch.long)
    found[0, 10:20, 30:34] = SEGMENTS.index("cat")
    found[0, 0, :5] = SEGMENTS.index("dog")  # too few pixels to be one
    assert boxes(found) == [{"cat": (30, 10, 34, 20)}, {}]
    assert mean_iou(found, found) == 1.0


def test_the_segmenter_speaks_of_every_pixel():
    model = build_annotator("segmenter").eval()
    with torch.no_grad():
        assert segment_logits(model, torch.zeros(2, 3, 64, 64)).shape == (2, 13, 64, 64)
    assert segments(model, torch.zeros(2, 3, 64, 64)).shape == (2, 64, 64)
    with pytest.raises(SparsightError, match="did you mean 'tagger'"):
        build_annotator("taggers")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    class Quiet(Silent):
        pass

    return build(tmp_path_factory.mktemp("scenes"), Quiet(), scale=0.0002)


def test_a_build_makes_an_ordinary_pipeline(built):
    pipeline = StableDiffusionPipeline.from_pretrained(built / "model", safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    image = pipeline("a cat on a beach", num_inference_steps=2, guidance_scale=7.5).images[0]
    assert image.size == (64, 64)
    assert {p.dtype for p in pipeline.text_encoder.parameters()} == {p.dtype for p in pipeline.unet.parameters()}


def test_a_build_makes_annotators_and_a_clip(built):
    world = ScenesWorld(built)
    images = world.source("held-out").batch(range(2))
    assert world.tagger(pixel_values=images).logits.shape == (2, 16)
    assert world.style_classifier(pixel_values=images).logits.shape == (2, 5)
    assert world.clip.image(images).shape == world.clip.text(["a cat", "a dog on a beach"]).shape == (2, 128)


def test_what_a_block_writes_can_be_swapped(built):
    pipeline = ScenesWorld(built).pipeline()
    block = pipeline.unet.mid_block.attentions[0]
    noise = torch.randn(2, 2, 8, 16, 16, generator=torch.Generator().manual_seed(0))
    prompts = ["a cat", "a dog in the snow"]
    with recording(block) as own:
        first = generate(pipeline, prompts, noise[0], steps=4)
    with replacing(block, own, range(4)):
        torch.testing.assert_close(generate(pipeline, prompts, noise[0], steps=4), first)
    assert len(own.steps) == 4 and own.steps[0].shape == (4, 192, 8, 8)


def test_stages_are_those_of_the_paper():
    assert [len(stage_steps(stage, 50)) for stage in ("early", "middle", "final")] == [20, 20, 10]
    assert stage_steps("early", 50)[0] == 0 and stage_steps("final", 50)[-1] == 49


def test_a_world_without_attributes_is_refused_where_they_are_needed():
    assert load_world("worlds/scenes").name == "scenes"
    with pytest.raises(SparsightError, match="needs a world with attributes"):
        load_avatars("scenes")
    with pytest.raises(SparsightError, match="did you mean 'scenes'"):
        load_world("scnes")


def test_missing_weights_are_said_in_words(tmp_path):
    with pytest.raises(SparsightError, match=r"no trained model in .*world build scenes"):
        ScenesWorld(tmp_path).pipeline()
    with pytest.raises(SparsightError, match=r"no trained segmenter in .*none: .*world build scenes"):
        _ = ScenesWorld(tmp_path / "none").segmenter


def test_the_blocks_outside_the_middle_can_be_kept_from_the_text():
    torch.manual_seed(0)
    model = dn.TextToImage().eval()
    x, t = torch.randn(1, 8, 16, 16), torch.tensor([500])
    said, blank = (encode_words(build_tokenizer(), [text]) for text in ("a cat on a beach", ""))
    with torch.no_grad():
        told, untold, half = model(x, t, said), model(x, t, blank), model(x, t, said, blank)
        assert torch.equal(model(x, t, said, said), told) and torch.equal(model(x, t, blank, blank), untold)
    assert not torch.allclose(half, told, atol=1e-3) and not torch.allclose(half, untold, atol=1e-3)


def test_half_of_the_times_are_uniform_and_half_where_objects_are_decided():
    generator = torch.Generator().manual_seed(0)
    times = torch.stack([dn._times(16, 1000, generator) for _ in range(500)])
    assert times.min() >= 0 and times.max() < 1000
    even, odd = times[:, ::2].double(), times[:, 1::2].double()
    assert abs(float(even.mean()) - 500) < 35 and abs(float(even.std()) - 289) < 10
    logit = (odd / 1000).logit().flatten()
    logit = logit[logit.isfinite()]
    assert abs(float(logit.mean()) - 0.4) < 0.2 and abs(float(logit.std()) - 1) < 0.15
