"""DAAM's maps against the softmax written out, regions by an annotator, and objects that are moved."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from baselines.small_text import DOG, PROMPT, UPDATE, masks, noise, small_text, told
from sparsight import Loop, SparsightError
from sparsight.baselines import METHODS, Plan, applicable, edit_images, fit, method
from sparsight.baselines.daam import composition_scores, daam_maps, word_mask, word_scores
from sparsight.baselines.detect_and_replace import box_of, exchanged, target_of
from sparsight.baselines.regions import Area, masks_by
from sparsight.concepts import Annotation, Targets
from sparsight.steering import to_grid

LOOP = Loop(5, "plain")


@torch.no_grad()
def test_maps_are_the_mean_softmax_of_the_prompts_half_over_heads_layers_and_steps():
    model, x, spoken = small_text().model, noise(), told()
    layers = [m for n, m in model.denoiser.named_modules() if n.endswith("attn2")]
    total, count = torch.zeros(2, 12, 8, 8), 0

    def hear(layer, args, kwargs):
        nonlocal total, count
        q, k = layer.to_q(args[0])[2:], layer.to_k(kwargs["encoder_hidden_states"])[2:]  # the half that sees the prompt
        q, k = (part.unflatten(-1, (layer.heads, -1)) for part in (q, k))
        weights = (torch.einsum("bphd,bwhd->bhpw", q, k) / math.sqrt(q.shape[-1])).softmax(-1).mean(1)
        side = math.isqrt(weights.shape[1])
        maps = weights.mT.unflatten(2, (side, side))
        total = total + F.interpolate(maps, (8, 8), mode="bicubic", align_corners=False).clamp_min(0)
        count += 1

    handles = [layer.register_forward_pre_hook(hear, with_kwargs=True) for layer in layers]
    state = x
    for t, t_next in model.pairs(5)[:3]:
        x0, eps = model.predict(state, t, spoken)
        signal, sigma = model.schedule.levels(t_next, x)
        state = signal * x0 + sigma * eps
    for handle in handles:
        handle.remove()
    maps = daam_maps(model, x, spoken, LOOP, until=3)
    torch.testing.assert_close(maps, total / count, atol=1e-5, rtol=1e-4)
    assert count == 3 * len(layers)
    own = maps[:, 5]  # a cat on a [dog]
    scaled = (own - own.amin((1, 2), True)) / (own.amax((1, 2), True) - own.amin((1, 2), True))
    torch.testing.assert_close(word_scores(model, maps, [PROMPT], "dog"), scaled)
    assert torch.equal(word_mask(model, maps, [PROMPT], "dog", 0.6), scaled > 0.6)
    with pytest.raises(SparsightError, match="does not say 'bird'"):
        word_mask(model, maps, [PROMPT], "bird")
    targets = Targets(torch.tensor([1, 0]), ["dog", "bird"], torch.zeros(2, 8, 8, dtype=torch.bool), {})
    found = composition_scores(model, maps, [PROMPT, PROMPT], targets)
    torch.testing.assert_close(found[0], scaled[1])
    assert not found[1].any()


def test_an_annotators_region_is_that_of_the_unedited_image_on_the_sites_grid():
    data = small_text()

    class Annotator:
        name = "lower right"

        def annotate(self, images, captions=None, numbers=None):
            found = masks(images, "x", captions)
            return [[Annotation.of("cat", mask)] for mask in found]

    plan = Plan(noise(), LOOP, told())
    unedited = edit_images(data.model, fit(method("detect_and_replace"), DOG, data), 0.0, noise(), LOOP, told())
    seen = []
    look = lambda images, word, prompts: seen.append(images) or masks_by(Annotator())(images, word, prompts)  # noqa: E731
    grid = data.model.site(UPDATE).grid
    region = Area("masks", "cat", look).find(data.model, plan, grid)
    torch.testing.assert_close(seen[0], unedited)
    assert torch.equal(region, to_grid(masks(unedited, "cat", [PROMPT] * 2), grid))
    assert not masks_by(Annotator())(unedited, "bird", [PROMPT] * 2).any()


def test_boxes_hold_every_cell_that_is_touched_and_targets_stay_inside():
    mask = torch.zeros(16, 16, dtype=torch.bool)
    mask[9:14, 9:13] = True
    assert box_of(mask, (8, 8)) == (4, 4, 3, 3) and box_of(~mask & mask, (8, 8)) is None
    assert target_of((4, 4, 3, 3), "top-left", (8, 8)) == (0, 0, 3, 3)
    assert target_of((0, 0, 3, 2), "bottom-right", (8, 8)) == (4, 5, 3, 2)
    assert target_of((0, 0, 8, 7), "bottom-right", (8, 8)) == (0, 1, 8, 7)


@torch.no_grad()
def test_the_object_and_the_target_change_places_at_the_strengths_noise_level():
    data, spoken = small_text(), told()
    model, editor = data.model, fit(method("detect_and_replace", to="top-left"), DOG, data)
    for strength in (0.6, -0.6):
        found = edit_images(model, editor, strength, noise(), LOOP, spoken)
        x, stamps = noise(), [t for t, _ in model.pairs(5)]
        level = min(stamps, key=lambda t: abs(t - 0.6 * stamps[0]))
        for t, t_next in model.pairs(5):
            if t == level:
                moved = x.clone()
                moved[:, :, 4:7, 4:7] = x[:, :, :3, :3]
                if strength > 0:
                    moved[:, :, :3, :3] = x[:, :, 4:7, 4:7]
                x = moved
            x0, eps = model.predict(x, t, spoken)
            signal, sigma = model.schedule.levels(t_next, x)
            x = signal * x0 + sigma * eps
        torch.testing.assert_close(found, model.decode(x).clamp(-1, 1), atol=1e-5, rtol=0)
    assert level not in (stamps[0], stamps[-1])
    x = torch.arange(16.0).reshape(1, 4, 4)
    assert torch.equal(
        exchanged(x, (1, 1, 3, 3), "top-left", True)[:, :3, :3], x[:, 1:, 1:]
    )  # overlap: the object wins


def test_where_nothing_is_found_the_image_stays():
    data = small_text()
    blind = replace(data, sources={"masks": lambda: lambda *a: masks(*a) & False}, opened={})
    editor = fit(method("detect_and_replace"), DOG, blind)
    images = [edit_images(data.model, editor, s, noise(), LOOP, told()) for s in (0.0, 0.5)]
    assert torch.equal(*images)
    bare = replace(data, sources={}, opened={})
    assert applicable(method("detect_and_replace"), bare) == "it needs a region of each image"


def test_swiftedit_is_listed_and_says_why_it_cannot_run(tmp_path):
    assert "swiftedit" in METHODS
    why = applicable(method("swiftedit"), small_text())
    assert why.startswith("it needs its authors' weights (its inversion network, ")
    assert "run its authors' program" in applicable(method("swiftedit", weights=str(tmp_path)), small_text())
    with pytest.raises(SparsightError, match="SwiftEdit is not applicable: it needs its authors' weights"):
        fit(method("swiftedit"), DOG, small_text())
