"""Features painted on a site, and edits along concept latents: each against the equation written out."""

from dataclasses import replace

import pytest
import torch

from baselines.small_data import BRIGHT, small_data
from baselines.small_text import DOG, TEXTS, UPDATE, noise, small_text, told
from sparsight import Loop, SparsightError
from sparsight.baselines import Plan, applicable, edit_images, fit, method
from sparsight.baselines.daam import daam_maps, word_mask
from sparsight.diffusion import Step
from sparsight.metrics import quadrant_region

LOOP = Loop(5, "plain")
HALVES = torch.tensor([False, False, True, True])


def tokens_of(data, rows=4):
    return data.store.load("tokens")["tokens"][:rows]


def painted(data, strength=1.5, **options):
    editor = fit(method("surkov_features", **options), DOG, data)
    with editor.context(data.model, strength, Plan(noise(), LOOP, told())):
        (edit,) = editor.interventions(strength)
    x, step = tokens_of(data), Step(400, grid=data.model.site(UPDATE).grid, conditional=HALVES)
    return editor.features, x, edit(x, step) - x


def test_features_are_those_with_the_largest_share_difference_and_a_unit_is_their_mean_where_active():
    data = small_text()
    rows = data.store.load("tokens", "image")
    codes = data.sae.encode(rows["tokens"]).double()
    dog = torch.tensor(["dog" in TEXTS[n] for n in rows["image"].tolist()])
    sums = torch.stack([codes[~dog].sum((0, 1)), codes[dog].sum((0, 1))])
    shares = sums / sums.sum(1, keepdim=True)
    editor = fit(method("surkov_features", k=3), DOG, data)
    assert editor.features.latents == tuple((shares[1] - shares[0]).topk(3).indices.tolist())
    for latent, mean in zip(editor.features.latents, editor.features.means, strict=True):
        own = codes[..., latent]
        assert float(mean) == pytest.approx(float(own[own > 0].mean()), rel=1e-5)


@pytest.mark.parametrize(("scope", "signs"), [("cond", (0, 1)), ("both", (1, 1)), ("opposed", (-1, 1))])
def test_adding_is_mean_activation_times_atom_on_the_halves_of_the_scope(scope, signs):
    data = small_text()
    found, x, change = painted(data, latents=(2, 7), scope=scope)
    stroke = sum(m * data.sae.W_dec[c] / data.sae.scale for c, m in zip(found.latents, found.means, strict=True))
    expected = torch.tensor([signs[0]] * 2 + [signs[1]] * 2).reshape(4, 1, 1) * 1.5 * stroke
    torch.testing.assert_close(change, expected.expand_as(x), atol=1e-4, rtol=1e-4)
    assert scope != "cond" or not change[:2].any()


def test_an_area_is_painted_and_the_rest_left_bit_for_bit():
    data = small_text()
    _, _, change = painted(data, latents=(2,), area="top-left")
    inside = quadrant_region("top-left", data.model.site(UPDATE).grid).flatten()
    assert not change[:, ~inside].any() and change[2:, inside].abs().sum(-1).gt(0).all()


def test_replacing_drops_the_update_and_ablating_takes_out_what_the_latents_say():
    data = small_text()
    found, x, change = painted(data, latents=(2,), form="replace")
    stroke = 1.5 * found.means[0] * data.sae.W_dec[2] / data.sae.scale
    torch.testing.assert_close((x + change)[2:], stroke.expand_as(x[2:]), atol=1e-4, rtol=1e-4)
    _, x, change = painted(data, -1.0, latents=(2, 7), form="ablate")
    codes = data.sae.encode(x)
    emptied = codes.clone()
    emptied[..., [2, 7]] = 0  # x plus the change of the reconstruction: the SAE's error stays
    expected = data.sae.decode(emptied) - data.sae.decode(codes)
    torch.testing.assert_close(change[2:], expected[2:], atol=1e-4, rtol=1e-4)


def test_a_words_area_is_daams_mask_of_the_unedited_images():
    data, plan = small_text(), Plan(noise(), LOOP, told())
    grid = data.model.site(UPDATE).grid
    editor = fit(method("surkov_features", latents=(2,), area="word", word="cat"), DOG, data)
    maps = daam_maps(data.model, plan.noise, plan.conditioning, LOOP, grid=grid)
    with editor.context(data.model, 1.0, plan):
        assert torch.equal(editor.region, word_mask(data.model, maps, plan.conditioning.prompts, "cat"))
    with pytest.raises(SparsightError, match="inside the editor's context only"):
        editor.interventions(1.0)


def test_what_cannot_be_is_refused_in_words():
    plain = small_data()
    for options, why in (
        ({"form": "replace"}, "replacing is of a site's update, as in mid_block:update"),
        ({"area": "word"}, "it needs a text-to-image model"),
        ({"scope": "opposed"}, "it needs a text-to-image model"),
        ({"area": "masks"}, "it needs a region of each image"),
    ):
        assert applicable(method("surkov_features", **options), plain) == why
    assert "'opposed' is a way to add" in applicable(
        method("surkov_features", form="ablate", scope="opposed"), small_text()
    )
    unlabelled = replace(plain, sources={k: v for k, v in plain.sources.items() if k != "labels"}, opened={})
    assert applicable(method("surkov_features"), unlabelled) == "it needs images labelled with the concept"
    assert applicable(method("surkov_features", latents=(1,)), unlabelled) is None
    fit(method("tinaz_global", latents=(1,)), BRIGHT, unlabelled)
    with pytest.raises(SparsightError, match="unknown area of a feature edit 'top-lef'"):
        method("surkov_features", area="top-lef")


def test_a_global_edit_of_strength_1_moves_tokens_by_their_mean_norm_along_the_atoms():
    data = small_text()
    (edit,) = fit(method("tinaz_global", latents=(2, 7)), DOG, data).interventions(1.0)
    x = data.store.load("tokens")["tokens"]
    change = edit.change(x)
    assert float(change.norm(dim=-1).mean()) == pytest.approx(float(x.norm(dim=-1).mean()), rel=1e-4)
    weights = data.sae.encode(x).norm(dim=-1, keepdim=True)
    expected = weights * (data.sae.W_dec[[2, 7]].sum(0) / data.sae.scale)
    torch.testing.assert_close(change / change.norm(), expected / expected.norm(), atol=1e-5, rtol=1e-3)


def test_a_spatial_edit_is_the_global_one_inside_and_takes_the_codes_away_outside_at_any_strength():
    data, plan = small_text(), Plan(noise(), LOOP, told())
    (whole,) = fit(method("tinaz_global", latents=(2, 7)), DOG, data).interventions(0.5)
    editor = fit(method("tinaz_spatial", latents=(2, 7), area="bottom-right"), DOG, data)
    with editor.context(data.model, 0.5, plan):
        (edit,) = editor.interventions(0.5)
    x, inside = tokens_of(data), quadrant_region("bottom-right", data.model.site(UPDATE).grid).flatten()
    torch.testing.assert_close(edit.change(x)[:, inside], whole.change(x)[:, inside], atol=1e-4, rtol=1e-4)
    taken = -data.sae.encode(x)[..., [2, 7]] @ (data.sae.W_dec[[2, 7]] / data.sae.scale)
    torch.testing.assert_close(edit.change(x)[:, ~inside], taken[:, ~inside], atol=1e-4, rtol=1e-4)
    images = [edit_images(data.model, editor, s, noise(), LOOP, told()) for s in (0.0, 0.5)]
    assert not torch.equal(*images)
