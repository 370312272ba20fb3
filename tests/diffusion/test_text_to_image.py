"""Text-to-image models against diffusers' own pipeline, with random weights."""

import json

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler, PNDMScheduler, StableDiffusionPipeline

from sparsight import DiffusionModel, Loop, SparsightError, invert, sample
from sparsight.diffusion import Step, TextToImage, walk
from tiny import tiny_pipeline
from tiny_text import LENGTH, SITES, tiny_text_model, tiny_text_pipeline

PROMPTS, NEGATIVE = ["a cat on a dog", ""], "dog"
PNDM = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}


@pytest.fixture(scope="module")
def model():
    return tiny_text_model()


def noise_of(model, count=2, seed=3):
    return torch.randn(count, *model.latent_shape, generator=torch.Generator().manual_seed(seed))


def theirs(pipeline, model, guidance, negative, steps=6):
    images = pipeline(
        PROMPTS, negative_prompt=[negative] * 2, guidance_scale=guidance, num_inference_steps=steps,
        latents=noise_of(model), output_type="np",
    ).images  # fmt: skip
    return torch.from_numpy(np.array(images))


def ours(model, guidance, negative, interventions=(), mode="plain", steps=6):
    told = model.encode_prompts(PROMPTS, negative=negative, guidance=guidance)
    loop = Loop(steps=steps, mode=mode)
    latents = sample(model, noise_of(model), loop, conditioning=told, interventions=interventions)
    with torch.no_grad():
        return (model.decode(latents) / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)


class Add:
    """Adds `amount` to the rows of one half, or to all."""

    def __init__(self, site, amount, half=None):
        self.site, self.amount, self.half, self.seen = site, amount, half, []

    def active(self, t):
        return True

    def __call__(self, tokens, step):
        self.seen.append(step)
        changed = tokens.clone()
        changed[slice(None) if self.half is None else step.rows(self.half)] += self.amount
        return changed


@pytest.mark.parametrize("guidance", [1.0, 7.5])
@pytest.mark.parametrize("negative", ["", NEGATIVE])
@pytest.mark.parametrize(
    "schedule",
    [
        {"prediction_type": "epsilon"},
        {"prediction_type": "v_prediction"},
        {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"},
    ],
)
def test_no_intervention_is_the_pipelines_own_image(guidance, negative, schedule):
    pipeline = tiny_text_pipeline(**schedule)
    model = DiffusionModel.from_pipeline(pipeline)
    torch.testing.assert_close(
        ours(model, guidance, negative), theirs(pipeline, model, guidance, negative), atol=1e-4, rtol=0
    )


@pytest.mark.parametrize("scheduler", [PNDMScheduler(skip_prk_steps=True, **PNDM), EulerDiscreteScheduler(**PNDM)])
def test_a_folder_of_another_scheduler_is_walked_as_diffusers_walks_its_config_with_ddim(scheduler, tmp_path):
    tiny_text_pipeline(scheduler=scheduler).save_pretrained(tmp_path)
    model, pipeline = DiffusionModel.load(tmp_path), StableDiffusionPipeline.from_pretrained(tmp_path)
    assert isinstance(model, TextToImage)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, clip_sample=False)
    torch.testing.assert_close(ours(model, 7.5, ""), theirs(pipeline, model, 7.5, ""), atol=1e-4, rtol=0)


def test_prompts_are_encoded_as_the_pipeline_does(model):
    pipeline = tiny_text_pipeline()
    text, negative = pipeline.encode_prompt(PROMPTS, "cpu", 1, True, negative_prompt=["dog", "dog"])
    told = model.encode_prompts(PROMPTS, negative="dog")
    assert torch.equal(told.text, text) and torch.equal(told.negative, negative)
    assert torch.equal(told.rows(2), torch.cat([negative, text]))  # diffusers' order
    assert model.encode_prompts("a cat", guidance=1).negative is None


def test_one_prompt_serves_any_number_of_states(model):
    x = noise_of(model, 3)
    with torch.no_grad():
        one = model.predict(x, 500, model.encode_prompts("a cat"))
        three = model.predict(x, 500, model.encode_prompts(["a cat"] * 3))
    torch.testing.assert_close(one.eps, three.eps)
    with pytest.raises(SparsightError, match="2 prompts are given for 3 states"):
        model.predict(x, 500, model.encode_prompts(["a", "b"]))


def test_a_long_prompt_says_what_is_not_read(model):
    with pytest.warns(UserWarning, match=f"is cut after {LENGTH} tokens: 'dog' is not read"):
        model.encode_prompts("a b c d e f g h i cat dog")
    assert model.cut_off("a cat") == ""
    with pytest.warns(UserWarning, match="and 1 more prompts are cut too"):
        model.encode_prompts(["a b c d e f g h i cat dog", "a b c d e f g h i cat cat", "a"])


@pytest.mark.parametrize("site", [f"{site}{mode}" for site in SITES for mode in ("", ":update")])
@pytest.mark.parametrize("mode", ["plain", "asymmetric"])
def test_an_edit_of_nothing_is_the_very_same_image(model, site, mode):
    plain = ours(model, 7.5, "", steps=3)
    assert torch.equal(ours(model, 7.5, "", [], mode, steps=3), plain)
    zero = Add(site, 0.0)
    assert torch.equal(ours(model, 7.5, "", [zero], mode, steps=3), plain) and zero.seen
    assert not torch.equal(ours(model, 7.5, "", [Add(site, 0.3)], mode, steps=3), plain)


def test_update_is_what_the_block_adds(model):
    seen, x = {}, noise_of(model)
    block = model.denoiser.mid_block.attentions[0]
    handle = block.register_forward_hook(lambda m, a, o: seen.update(before=a[0], after=o[0]))
    with torch.no_grad(), model.capture([f"{SITES[1]}:update"]) as tape:
        model.predict(x, 500, model.encode_prompts("a cat"))
    handle.remove()
    expected = (seen["after"] - seen["before"]).flatten(2).transpose(1, 2)
    assert torch.equal(tape[f"{SITES[1]}:update"], expected)


def test_the_halves_are_the_passes_that_they_stand_for(model):
    x, site = noise_of(model), SITES[2]
    with torch.no_grad(), model.capture([site]) as tape:
        guided = model.predict(x, 500, model.encode_prompts(["a cat", "dog"], negative="on", guidance=3.0))
        halves = {half: tape.half(site, half) for half in ("cond", "uncond")}
        cond = model.predict(x, 500, model.encode_prompts(["a cat", "dog"], guidance=1))
        torch.testing.assert_close(halves["cond"], tape[site])
        assert torch.equal(tape.half(site, "cond"), tape[site])
        uncond = model.predict(x, 500, model.encode_prompts("on", guidance=1))
        torch.testing.assert_close(halves["uncond"], tape[site])
    torch.testing.assert_close(guided.eps, uncond.eps + 3.0 * (cond.eps - uncond.eps))
    with pytest.raises(SparsightError, match="no 'uncond' half"):
        tape.half(site, "uncond")
    with pytest.raises(SparsightError, match="did you mean 'cond'"):
        tape.half(site, "conf")


def test_an_intervention_is_told_the_halves_and_each_is_recorded(model):
    add = Add(SITES[1], 0.5, "cond")
    told = model.encode_prompts(PROMPTS)
    moment = next(walk(model, noise_of(model), Loop(steps=5, mode="plain"), conditioning=told, interventions=[add]))
    assert add.seen[0].halves == ("uncond", "cond") and add.seen[0].grid == (4, 4)
    assert add.seen[0].conditional.tolist() == [False, False, True, True]
    assert (
        moment.edits.mean(SITES[1], "uncond") == 0 < moment.edits.mean(SITES[1]) < moment.edits.mean(SITES[1], "cond")
    )
    ours(model, 1, "", [add])
    assert add.seen[-1].halves == ("cond",)
    assert Step(t=3).halves == () and Step(t=3).rows("cond") == slice(None)


def test_only_the_cond_half_moves_a_cond_edit(model):
    x, told = noise_of(model), model.encode_prompts(PROMPTS, guidance=2.0)
    with torch.no_grad(), model.capture([SITES[2]]) as tape:
        model.predict(x, 500, told)
        plain = tape[SITES[2]]
        with model.edit([Add(SITES[1], 5.0, "cond")]):
            model.predict(x, 500, told)
    assert torch.equal(tape.half(SITES[2], "uncond"), plain[:2])
    assert not torch.equal(tape.half(SITES[2], "cond"), plain[2:])


def test_only_the_chosen_steps_are_captured(model):
    told, stamps = model.encode_prompts("a cat"), [t for t, _ in model.pairs(10)]
    chosen = {stamps[0], stamps[5], stamps[9]}
    with model.capture([SITES[1]], at=chosen) as tape:
        moments = list(walk(model, noise_of(model), Loop(steps=10), conditioning=told))
    assert set(tape.past) == chosen
    with model.capture([SITES[1]]) as again, torch.no_grad():
        model.predict(moments[5].x_t, stamps[5], told)
    assert torch.equal(tape.past[stamps[5]].half(SITES[1], "cond"), again.half(SITES[1], "cond"))


@torch.no_grad()
def test_latents_are_scaled_as_the_pipeline_scales_them(model):
    images = torch.rand(1, 3, 16, 16) * 2 - 1
    vae = tiny_text_pipeline().vae
    expected = vae.encode(images).latent_dist.mode()
    torch.testing.assert_close(model.encode(images), 0.3 * expected)
    torch.testing.assert_close(model.decode(model.encode(images)), vae.decode(expected).sample)


def test_inversion_then_sampling_returns_the_latents(model):
    told = model.encode_prompts("a cat", guidance=1)
    start, loop = noise_of(model, 1), Loop(steps=20, refine=3)
    image = sample(model, start, loop, conditioning=told)
    back = sample(model, invert(model, image, loop, conditioning=told), loop, conditioning=told)
    torch.testing.assert_close(back, image, atol=2e-2, rtol=0)


def test_weights_in_half_precision_give_nearly_the_same(model, tmp_path):
    tiny_text_pipeline().save_pretrained(tmp_path)
    low = DiffusionModel.load(tmp_path, torch_dtype=torch.bfloat16)
    assert low.dtype == torch.bfloat16 and low.sites() == model.sites()
    with torch.no_grad():
        eps = low.predict(noise_of(low), 500, low.encode_prompts(PROMPTS)).eps
        expected = model.predict(noise_of(model), 500, model.encode_prompts(PROMPTS)).eps
        assert low.decode(noise_of(low)).dtype == torch.float32
    assert eps.dtype == torch.float32 and (eps - expected).norm() < 0.1 * expected.norm()


def test_the_fingerprint_covers_the_text_encoder(model):
    other = tiny_text_pipeline()
    with torch.no_grad():
        next(other.text_encoder.parameters())[0] += 1e-3
    assert DiffusionModel.from_pipeline(other).fingerprint() != model.fingerprint()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"prompts": []}, "there are no prompts"),
        ({"prompts": [3]}, "must be texts, not int"),
        ({"prompts": ["a", "b"], "negative": ["a", "b", "c"]}, "3 negative prompts are given for 2 prompts"),
        ({"prompts": "a", "guidance": 0.5}, "must be at least 1"),
        ({"prompts": "a", "guidance": float("nan")}, "must be at least 1"),
    ],
)
def test_bad_prompts_are_one_clear_sentence(model, options, words):
    with pytest.raises(SparsightError, match=words):
        model.encode_prompts(**options)


def test_prompts_are_asked_for_where_they_are_needed_and_refused_elsewhere(model):
    with pytest.raises(SparsightError, match="is a text-to-image model: give it prompts"):
        model.predict(noise_of(model), 500)
    plain = DiffusionModel.from_pipeline(tiny_pipeline(), name="plain")
    with pytest.raises(SparsightError, match="plain takes no prompts"):
        plain.encode_prompts("a cat")
    with pytest.raises(SparsightError, match="plain takes no prompts"):
        plain.predict(torch.zeros(1, *plain.latent_shape), 500, model.encode_prompts("a cat"))


def test_a_safety_checker_is_not_read_and_another_family_is_refused_before_its_weights_are(tmp_path):
    tiny_text_pipeline().save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]  # the folder has none
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    assert DiffusionModel.load(tmp_path).takes_prompts
    index["_class_name"] = "StableDiffusionXLPipeline"
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    (tmp_path / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(
        SparsightError, match=r"family StableDiffusionXLPipeline is not supported .*StableDiffusionPipe"
    ):
        DiffusionModel.load(tmp_path)


def test_a_part_of_the_prompts_is_what_these_states_are_told():
    model = tiny_text_model()
    whole = model.encode_prompts(["a cat", "a dog", "dog on a cat"], guidance=3.0)
    part, alone = whole.part(slice(1, 3)), model.encode_prompts(["a dog", "dog on a cat"], guidance=3.0)
    assert part.prompts == alone.prompts and part.guidance == 3.0 and len(part) == 2
    torch.testing.assert_close(part.rows(2), alone.rows(2))
    one = model.encode_prompts("a cat", guidance=1.0)
    assert one.part(slice(5, 9)) is one  # one prompt serves any number of states
