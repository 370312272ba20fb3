"""What holds for every registered method: the two promises of the harness, checked on each."""

from dataclasses import replace
from functools import cache

import pytest
import torch

from baselines import small_data as pictures
from baselines import small_text as prompts
from baselines.small_data import BRIGHT, small_data
from sparsight import Loop, SparsightError, sample
from sparsight.baselines import METHODS, NEEDS, Plan, applicable, edit_images, fit, method

QUICK = {
    "text_slider": {"iterations": 2, "steps": 4, "lr": 0.05},
    "asyrp": {"images": 2, "epochs": 1, "batch_size": 2, "lr": 0.05},
    "image_slider": {"updates": 3},
    "park_pullback": {"count": 3, "images": 2, "repeats": 2, "iterations": 3},
    "haas_jacobian": {"images": 2, "iterations": 3},
}


def with_prompts(name):
    return bool(METHODS[name].needs & {"text_to_image", "masks"})


@cache
def fitted(name, precision="fp32"):
    chosen, text = method(name, **QUICK.get(name, {})), with_prompts(name)
    data, concept = (prompts.small_text(precision), prompts.DOG) if text else (small_data(precision), BRIGHT)
    if (why := applicable(chosen, data)) is not None:
        pytest.skip(why)
    return data.model, fit(chosen, concept, data)


def run_of(model, mode="asymmetric"):
    if model.takes_prompts:
        return Plan(prompts.noise(), Loop(5, mode), prompts.told())
    return Plan(pictures.noise(), Loop(10, mode))


def edited(model, editor, strength, plan):
    return edit_images(model, editor, strength, plan.noise, plan.loop, plan.conditioning)


def plain(model, plan):
    return model.decode(sample(model, plan.noise, plan.loop, conditioning=plan.conditioning)).clamp(-1, 1)


@pytest.mark.parametrize("name", METHODS)
def test_strength_0_is_the_unedited_image_bit_for_bit(name):
    model, editor = fitted(name)
    for mode in ("asymmetric", "plain"):
        plan = run_of(model, mode)
        assert torch.equal(edited(model, editor, 0, plan), plain(model, plan))
    assert not any(i.active(t) for i in editor.interventions(0) for t in range(1000))  # so no pass is wasted either
    plan = run_of(model)
    x, told = plan.noise, plan.conditioning
    assert all(editor.move(model, x, t, 0.0, told) is x for t, _ in model.pairs(10))
    assert all(editor.told(told, t, 0.0) is told for t, _ in model.pairs(10))
    with editor.context(model, 0.0, plan):
        assert torch.equal(model.predict(x, 500, told).eps, model.predict(x, 500, told).eps)


@pytest.mark.parametrize("name", METHODS)
def test_another_strength_changes_the_image_and_leaves_the_model_as_it_was(name):
    model, editor = fitted(name)
    plan = run_of(model)
    before, state = plain(model, plan), {k: v.clone() for k, v in model.denoiser.state_dict().items()}
    low, high = (edited(model, editor, s, plan) for s in (-0.5, 0.5))
    assert torch.isfinite(high).all() and high.shape == before.shape
    assert not torch.equal(high, before) and not torch.equal(high, low)
    assert torch.equal(plain(model, plan), before)
    after = model.denoiser.state_dict()
    assert after.keys() == state.keys() and all(torch.equal(after[k], v) for k, v in state.items())
    assert not any(p.requires_grad for p in model.denoiser.parameters())


@pytest.mark.parametrize("name", METHODS)
def test_it_works_where_the_networks_run_under_autocast(name):
    model, editor = fitted(name, "bf16")
    assert model.precision == "bf16"
    plan = run_of(model)
    assert torch.equal(edited(model, editor, 0, plan), plain(model, plan))
    high = edited(model, editor, 0.5, plan)
    assert torch.isfinite(high).all() and not torch.equal(high, plain(model, plan))


@pytest.mark.parametrize("name", METHODS)
def test_a_method_says_what_it_is_and_asks_for_nothing_that_it_did_not_declare(name):
    chosen = METHODS[name]
    assert chosen.name == name and chosen.title and chosen.paper and chosen.__doc__
    assert chosen.needs <= set(NEEDS) and chosen.mode in ("plain", "asymmetric")
    fitted(name)  # `fit` shows it only what it declared


@pytest.mark.parametrize("name", METHODS)
def test_a_method_without_what_it_needs_is_refused_in_words(name):
    bare, chosen = replace(small_data(), sources={}), method(name)
    if not chosen.needs - {"gradients"}:
        return
    why = applicable(chosen, bare)
    assert why and why.startswith("it needs ")
    with pytest.raises(SparsightError, match="is not applicable: it needs"):
        fit(chosen, BRIGHT, bare)
