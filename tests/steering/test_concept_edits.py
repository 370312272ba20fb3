"""Spatial and global interventions against the paper's equations, written out token by token."""

from dataclasses import replace

import pytest
import torch

from sparsight import Loop, SparsightError, sample
from sparsight.diffusion import Step, walk
from sparsight.metrics import quadrant_region
from sparsight.sae import SAE, SAEConfig
from sparsight.steering import (
    NORMALISERS,
    Window,
    concept_controls,
    edit_together,
    fraction_window,
    global_edit,
    mean_change,
    mean_shift,
    spatial_edit,
    stage_window,
    to_grid,
)  # fmt: skip
from tiny_text import SITES, tiny_text_model

SITE = f"{SITES[1]}:update"  # 64 channels on a grid of 4x4
LATENTS, BETA = (3, 17, 8), 2.5
STEP = Step(t=700, grid=(4, 4))
HALVED = replace(STEP, conditional=torch.tensor([False, False, True, True]))


def make_sae(channels=64, latents=40, activation="topk", **extra):
    sae = SAE(SAEConfig(channels, latents, activation=activation, k=12), seed=1)
    sae.set_statistics(torch.randn(channels, generator=torch.Generator().manual_seed(5)), 1.7)
    with torch.no_grad():
        sae.b_enc.fill_(0.1)
    sae.extra = extra
    return sae.requires_grad_(False)


def tokens_of(count=2, seed=0, dtype=torch.float32):
    return torch.randn(count, 16, 64, generator=torch.Generator().manual_seed(seed)).to(dtype)


def spatial(sae, region=None, **options):
    where = quadrant_region("top-left", (4, 4)) if region is None else region
    return spatial_edit(sae, LATENTS, where, **({"site": SITE, "beta": BETA} | options))


def everywhere(sae, **options):
    return global_edit(sae, LATENTS, **({"site": SITE, "beta": BETA} | options))


def weight(norms, position, normaliser):
    """n_ij of one position, from the norms of one image."""
    whole = {"none": None, "norm": 1.0, "norm_over_sum": sum(norms), "norm_over_mean": sum(norms) / len(norms)}
    return 1.0 if normaliser == "none" else norms[position] / whole[normaliser]


@pytest.mark.parametrize("normaliser", NORMALISERS)
@pytest.mark.parametrize("activation", ["topk", "relu"])
def test_a_spatial_edit_is_equation_1_token_by_token(normaliser, activation):
    """Codes are set as Eq. 1 says, and what decoding makes of the difference is added (Eq. 2)."""
    sae, tokens = make_sae(activation=activation), tokens_of()
    edited = spatial(sae, normaliser=normaliser)(tokens, STEP)
    for image in range(2):
        codes = sae.encode(tokens[image])
        norms = [float(z.norm()) for z in codes]
        for position in range(16):
            wanted = codes[position].clone()
            for latent in LATENTS:
                if position // 4 < 2 and position % 4 < 2:
                    wanted[latent] += BETA * weight(norms, position, normaliser)
                else:
                    wanted[latent] = 0.0
            expected = tokens[image, position] + sae.decode(wanted) - sae.decode(codes[position])
            torch.testing.assert_close(edited[image, position], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("normaliser", NORMALISERS)
def test_a_global_edit_is_equation_3_token_by_token(normaliser):
    sae, tokens = make_sae(), tokens_of()
    edited = everywhere(sae, normaliser=normaliser)(tokens, STEP)
    for image in range(2):
        norms = [float(z.norm()) for z in sae.encode(tokens[image])]
        for position in range(16):
            push = sum(sae.W_dec[latent] / sae.scale for latent in LATENTS)
            expected = tokens[image, position] + BETA * weight(norms, position, normaliser) * push
            torch.testing.assert_close(edited[image, position], expected, atol=1e-4, rtol=1e-4)


def test_outside_the_region_only_the_concepts_own_contribution_disappears():
    sae, tokens = make_sae(), tokens_of()
    difference = spatial(sae)(tokens, STEP) - tokens
    codes = sae.encode(tokens)
    outside = ~quadrant_region("top-left", (4, 4)).flatten()
    silent = (codes[..., list(LATENTS)] == 0).all(-1) & outside
    assert silent.any() and not difference[silent].any()
    kept = sae.decode(torch.where(torch.isin(torch.arange(40), torch.tensor(LATENTS)), 0.0, codes)) - sae.decode(codes)
    torch.testing.assert_close(difference[:, outside], kept[:, outside], atol=1e-5, rtol=1e-4)
    assert not spatial(sae, erase=0.0).change(tokens)[:, outside].any()


def test_zero_strength_returns_the_very_same_tokens_and_is_never_active():
    for edit in (spatial(make_sae(), beta=0), everywhere(make_sae(), beta=0)):
        tokens = tokens_of()
        assert edit(tokens, STEP) is tokens and not edit.active(700)
        assert not edit_together([edit]).active(700) and edit_together([edit])(tokens, STEP) is tokens


@pytest.mark.parametrize("make", [spatial, everywhere])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_scope_cond_leaves_the_other_half_to_the_bit(make, dtype):
    sae, tokens = make_sae(), tokens_of(4, dtype=dtype)
    edited = make(sae)(tokens, HALVED)
    assert edited.dtype == torch.float32  # edits are added up in fp32
    assert torch.equal(edited[:2].to(dtype), tokens[:2])
    torch.testing.assert_close(edited[2:], make(sae)(tokens[2:], STEP))
    both = make(sae, scope="both")(tokens, HALVED)
    torch.testing.assert_close(both[2:], edited[2:])
    torch.testing.assert_close(both[:2], make(sae)(tokens[:2], STEP))


def test_every_image_may_have_its_own_region():
    sae, tokens = make_sae(), tokens_of(4)
    regions = torch.stack([quadrant_region(name, (4, 4)) for name in ("top-right", "bottom-left")])
    edited = spatial(sae, region=regions, scope="both")(tokens, HALVED)
    for row, name in enumerate(("top-right", "bottom-left") * 2):
        alone = spatial(sae, region=quadrant_region(name, (4, 4)))(tokens[row : row + 1], STEP)
        torch.testing.assert_close(edited[row : row + 1], alone)
    with pytest.raises(SparsightError, match="there are 2 regions for 3 images"):
        spatial(sae, region=regions)(tokens[:3], STEP)


def test_edits_together_all_read_the_unedited_tokens():
    sae, tokens = make_sae(), tokens_of()
    one, two = spatial(sae), global_edit(sae, [5], site=SITE, beta=1.0)
    both = edit_together([one, two])(tokens, STEP)
    torch.testing.assert_close(both, tokens + one.change(tokens) + two.change(tokens))
    in_a_list = two(one(tokens, STEP), STEP)
    assert not torch.allclose(both, in_a_list)
    late = edit_together([one, replace(two, window=Window(0, 100))])
    torch.testing.assert_close(late(tokens, STEP), one(tokens, STEP))
    with pytest.raises(SparsightError, match="act together at one site, not at"):
        edit_together([one, global_edit(sae, [5], site="mid_block", beta=1.0)])


@pytest.mark.parametrize("make", [spatial, everywhere])
def test_controls_have_the_edits_mean_shift_and_are_what_they_say(make):
    sae, tokens = make_sae(), tokens_of(8)
    edit = make(sae, normaliser="norm_over_mean")
    found = concept_controls(edit, tokens, seed=2)
    for control in found.values():
        assert mean_change(control, tokens) == pytest.approx(mean_change(edit, tokens), rel=1e-4)
    other = found["random_latents"]
    assert len(other.latents) == len(LATENTS) and set(other.latents).isdisjoint(LATENTS)
    assert (sae.encode(tokens)[..., list(other.latents)] > 0).flatten(0, 1).any(0).all()
    torch.testing.assert_close(other.directions, sae.W_dec[list(other.latents)] / sae.scale)
    directions = found["random_directions"].directions
    torch.testing.assert_close(directions.norm(dim=1), edit.directions.norm(dim=1))
    assert found["random_directions"].latents == LATENTS
    assert torch.cosine_similarity(directions, edit.directions).abs().max() < 0.6
    again = concept_controls(edit, tokens, seed=2)["random_latents"]
    assert again.latents == other.latents
    assert mean_shift(edit.at(1.0), tokens) == pytest.approx(mean_change(edit.at(1.0), tokens))


def test_a_control_needs_latents_that_fire():
    sae = make_sae(latents=4, activation="relu")
    few = concept_controls(global_edit(sae, [0, 1, 2], site=SITE, beta=1.0), tokens_of(8))["random_latents"]
    assert few.latents == (3,)  # as many as there are, pushed as far
    with pytest.raises(SparsightError, match="none fires on these tokens"):
        concept_controls(global_edit(sae, [0, 1, 2, 3], site=SITE, beta=1.0), tokens_of(8))


def test_an_sae_that_is_told_the_timestep_is_told_it():
    sae = SAE(SAEConfig(64, 40, t_edges=(500,)), seed=1)
    with torch.no_grad():
        sae.b_time[1] = 0.5
    tokens, edit = tokens_of(), everywhere(sae.requires_grad_(False))
    for t in (300, 700):
        push = sae.encode(tokens, t).norm(dim=-1, keepdim=True) * sae.W_dec[list(LATENTS)].sum(0)
        torch.testing.assert_close(edit(tokens, replace(STEP, t=t)), tokens + BETA * push, atol=1e-4, rtol=1e-4)


def test_stages_are_those_of_the_notes():
    model = tiny_text_model()
    stamps = [t for t, _ in model.pairs(50)]
    steps = {
        name: [i for i, t in enumerate(stamps) if t in stage_window(name)] for name in ("early", "middle", "final")
    }
    assert steps == {"early": list(range(20)), "middle": list(range(20, 40)), "final": list(range(40, 50))}
    assert fraction_window(0.0, 1.0) == Window(0, 999) and fraction_window(0.6, 1.0, 100) == Window(60, 99)
    for bad in ((0.6, 0.2), (-0.1, 0.5), (0.5, 1.5)):
        with pytest.raises(SparsightError, match="must run upwards between 0"):
            fraction_window(*bad)
    with pytest.raises(SparsightError, match="did you mean 'early'"):
        stage_window("erly")


def test_quadrants_and_masks():
    whole = sum(
        quadrant_region(name, (5, 4)).int() for name in ("top-left", "top-right", "bottom-left", "bottom-right")
    )
    assert torch.equal(whole, torch.ones(5, 4, dtype=torch.int))
    mask = torch.zeros(2, 64, 64, dtype=torch.bool)
    mask[0, :32, 32:] = True
    mask[1, :5, :5] = True
    assert torch.equal(to_grid(mask, (4, 4))[0], quadrant_region("top-right", (4, 4)))
    assert not to_grid(mask, (4, 4))[1].any() and to_grid(mask[1], (4, 4), cover=0.05).sum() == 1
    with pytest.raises(SparsightError, match="did you mean 'top-left'"):
        quadrant_region("top_left", (4, 4))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"normaliser": "norms"}, "did you mean 'norm'"),
        ({"scope": "con"}, "did you mean 'cond'"),
        ({"region": torch.ones(4, 4)}, "must be a bool mask"),
        ({"sae": make_sae(site="mid_block.attentions.0", mode="output")}, "trained at mid_block.attentions.0, but"),
        ({"sae": make_sae(timesteps=[1]), "window": Window(600, 999)}, "use an SAE of that stage"),
        ({"sae": make_sae(conditioning="uncond")}, "trained on the 'uncond' half"),
        ({"latents": []}, "at least one latent"),
        ({"latents": [40]}, "latent 40 does not exist: the SAE has latents 0 to 39"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_sentence(options, words):
    arguments = {
        "sae": make_sae(),
        "latents": LATENTS,
        "region": quadrant_region("top-left", (4, 4)),
        "site": SITE,
        "beta": 1.0,
    }
    with pytest.raises(SparsightError, match=words) as caught:
        spatial_edit(**(arguments | options))
    assert "\n" not in str(caught.value)


def test_another_stage_or_half_can_be_asked_for():
    sae = make_sae(timesteps=[1], conditioning="uncond", site=SITE, mode="update")
    assert spatial(sae, window=stage_window("early"), strict=False).active(700)
    assert everywhere(sae, strict=False).latents == LATENTS


def test_regions_and_saes_of_another_site_are_refused_in_the_model(model_of_text):
    told, noise = model_of_text.encode_prompts("a cat"), torch.zeros(1, *model_of_text.latent_shape)
    run = {"conditioning": told, "loop": Loop(steps=4, mode="plain")}
    with pytest.raises(SparsightError, match=r"the region is 8x8 positions, but .* has 4x4: to_grid brings"):
        sample(model_of_text, noise, interventions=[spatial(make_sae(), quadrant_region("top-left", (8, 8)))], **run)
    with pytest.raises(SparsightError, match=r"reads 32 channels, but .* has 64: it was trained at another site"):
        sample(model_of_text, noise, interventions=[everywhere(make_sae(32))], **run)


@pytest.fixture(scope="module")
def model_of_text():
    return tiny_text_model()


@pytest.mark.parametrize("make", [spatial, everywhere])
def test_in_the_model_zero_is_exact_and_strengths_are_those_of_the_edited_half(make, model_of_text):
    model, told = model_of_text, model_of_text.encode_prompts(["a cat", "a dog"])
    noise = torch.randn(2, *model.latent_shape, generator=torch.Generator().manual_seed(0))
    loop, window = Loop(steps=10, mode="plain"), stage_window("middle")
    plain = sample(model, noise, loop, conditioning=told)
    zero = make(make_sae(), beta=0, window=window)
    assert torch.equal(sample(model, noise, loop, conditioning=told, interventions=[zero]), plain)
    edit = make(make_sae(), window=window, scope="cond")
    with model.capture([SITE]) as tape:
        for moment in walk(model, noise, loop, conditioning=told, interventions=[edit]):
            if not edit.active(moment.t):
                assert moment.edits is None
                continue
            assert moment.edits.mean(SITE, "uncond") == 0
            with torch.no_grad():
                model.predict(moment.x_t, moment.t, told)
            h = tape.half(SITE, "cond")
            ratio = float(edit.change(h, moment.t).norm() / h.norm())
            assert moment.edits.mean(SITE, "cond") == pytest.approx(ratio, rel=1e-3)
    assert not torch.equal(moment.x_next, plain)


def test_an_edit_that_leaves_fp16_is_said():
    with pytest.raises(SparsightError, match="leaves the range of fp16"):
        everywhere(make_sae(), beta=1e6)(tokens_of(dtype=torch.float16), STEP)
