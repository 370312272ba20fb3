import pytest
import torch
from torch.func import functional_call

from baselines.small_data import BRIGHT, LOOP, noise, small_data
from sparsight import SparsightError
from sparsight.baselines import Plan, applicable, fit, method
from sparsight.baselines.lora import Lora
from sparsight.baselines.lora import needs_peft as why_not
from sparsight.baselines.slider import WeightEditor, side_loss, slid

needs_peft = pytest.mark.skipif(why_not() is not None, reason="peft is not installed: pip install 'sparsight[sliders]'")
PLAN = Plan(noise(), LOOP)


def _predicted(model, weights, x, t):
    """The noise that the denoiser predicts with other weights, without touching the module."""
    return functional_call(model.denoiser, weights, (x, torch.tensor([t] * len(x)))).sample


def _with(model, deltas, strength):
    weights = dict(model.denoiser.state_dict())
    return {**weights, **{f"{p}.weight": weights[f"{p}.weight"] + strength * d for p, d in deltas.items()}}


def _some_deltas(model):
    dice = torch.Generator().manual_seed(6)
    layers = {path: model.denoiser.get_submodule(path) for path in slid(model.denoiser)}
    return {p: torch.randn(m.weight.shape, generator=dice) / 50 for p, m in layers.items()}


def test_inside_the_context_the_weights_are_moved_and_afterwards_they_are_back_to_the_bit():
    model = small_data().model
    deltas, before = _some_deltas(model), {k: v.clone() for k, v in model.denoiser.state_dict().items()}
    with torch.no_grad(), WeightEditor(deltas).context(model, -1.5, PLAN):
        found = model.predict(noise(), 600).eps
    torch.testing.assert_close(found, _predicted(model, _with(model, deltas, -1.5), noise(), 600))
    with pytest.raises(ZeroDivisionError), WeightEditor(deltas).context(model, 1.0, PLAN):
        _ = 1 / 0
    assert all(torch.equal(v, before[k]) for k, v in model.denoiser.state_dict().items())


def test_time_embedding_and_cross_attention_are_left_alone():
    from tiny_text import tiny_text_model

    paths = slid(tiny_text_model().denoiser)
    assert any("attn1.to_q" in path for path in paths) and any("conv1" in path for path in paths)
    assert not any("attn2" in path or "time_emb" in path for path in paths)


def test_without_peft_it_says_how_to_install_it(monkeypatch):
    data = small_data()
    monkeypatch.setattr("sparsight.baselines.lora.find_spec", lambda name: None)
    assert "pip install 'sparsight[sliders]'" in applicable(method("image_slider"), data)
    with pytest.raises(SparsightError, match="sparsight\\[sliders\\]"):
        Lora.on(data.model, slid(data.model.denoiser), 4, 1.0, 0)


@needs_peft
def test_one_update_is_adams_first_step_on_both_sides_of_the_slider():
    """The loss is written out with plain weights W +- (alpha / rank) B A, and its gradient taken by autograd."""
    data, rank = small_data(), 2
    model = data.model
    before, after = data.pairs(BRIGHT)
    eps, t = noise(1, seed=9), 400
    slider = Lora.on(model, slid(model.denoiser), rank, 1.0, seed=0)
    with slider.on_model(model, 1.0):
        weights = {p: (m.lora_A["slider"].weight, m.lora_B["slider"].weight) for p, m in slider.layers.items()}
        with torch.no_grad():
            for _, B in weights.values():
                B.normal_(generator=torch.Generator().manual_seed(1)).mul_(
                    0.02
                )  # at the start B is 0 and A learns nothing
        own = {p: (A.detach().clone(), B.detach().clone()) for p, (A, B) in weights.items()}
        for scale, side in ((1.0, after), (-1.0, before)):
            side_loss(model, slider, scale, side[:1], eps, t).backward()
        grads = {p: (A.grad.clone(), B.grad.clone()) for p, (A, B) in weights.items()}
    exact = slider.deltas()
    parts = {p: (A.requires_grad_(), B.requires_grad_()) for p, (A, B) in own.items()}
    total = 0
    for scale, side in ((1.0, after), (-1.0, before)):
        deltas = {}
        for path, (A, B) in parts.items():
            shape = model.denoiser.get_submodule(path).weight.shape
            # a convolution's B is 1x1, so that the product is one of matrices; the slider's sign is on the whole
            deltas[path] = (B.flatten(1) @ A.flatten(1)).reshape(shape) / rank
        signal, sigma = model.schedule.levels(t, side)
        x_t = signal * side[:1] + sigma * eps
        total = total + (_predicted(model, _with(model, deltas, scale), x_t, t) - eps).square().mean()
    total.backward()
    for path, (A, B) in parts.items():
        torch.testing.assert_close(grads[path][0], A.grad, rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(grads[path][1], B.grad, rtol=1e-3, atol=1e-5)
        product = (B.flatten(1) @ A.flatten(1)).reshape(exact[path].shape) / rank
        torch.testing.assert_close(exact[path], product, rtol=1e-4, atol=1e-6)


@needs_peft
def test_training_lowers_the_loss_of_both_sides_and_leaves_the_model_alone():
    data = small_data()
    model, names = data.model, set(data.model.denoiser.state_dict())
    editor = fit(method("image_slider", updates=60, lr=2e-3), BRIGHT, data)
    assert set(model.denoiser.state_dict()) == names
    assert not any(p.requires_grad for p in model.denoiser.parameters())
    assert not hasattr(model.denoiser, "peft_config")
    before, after = data.pairs(BRIGHT)
    losses = {}
    for scale in (-1.0, 0.0, 1.0):
        with torch.no_grad(), editor.context(model, scale, PLAN):
            for name, side in (("before", before), ("after", after)):
                errors = []
                for t in (300, 600, 900):
                    signal, sigma = model.schedule.levels(t, side)
                    eps = noise(len(side), seed=t)
                    errors.append((model.predict(signal * side + sigma * eps, t).eps - eps).square().mean())
                losses[scale, name] = float(sum(errors))
    assert losses[1.0, "after"] < losses[0.0, "after"] and losses[-1.0, "before"] < losses[0.0, "before"]
    assert losses[1.0, "after"] - losses[-1.0, "after"] < losses[1.0, "before"] - losses[-1.0, "before"]
