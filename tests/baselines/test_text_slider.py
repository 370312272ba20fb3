"""Text sliders: the goal and the layers written out; without peft the method says what to install."""

import importlib.util

import pytest
import torch

from baselines.small_text import DOG, noise, small_text, told
from sparsight import Loop, SparsightError
from sparsight.baselines import applicable, edit_images, fit, method
from sparsight.baselines.lora import Lora
from sparsight.baselines.text_slider import Lesson, attention, slider_loss

HAS_PEFT = importlib.util.find_spec("peft") is not None
needs_peft = pytest.mark.skipif(not HAS_PEFT, reason="peft is not installed")
LOOP = Loop(5, "plain")


@pytest.mark.skipif(HAS_PEFT, reason="peft is installed")
def test_without_peft_the_line_that_installs_it_is_given():
    with pytest.raises(SparsightError, match=r"it needs the package peft.*pip install 'sparsight\[sliders\]'"):
        fit(method("text_slider"), DOG, small_text())


@needs_peft
def test_the_layers_add_scale_times_b_a_beside_attention_and_leave_the_model():
    model, x = small_text().model, noise()
    lora = Lora.on(model, attention(model, "self"), rank=2, alpha=1.0, seed=0)
    names = [n for n, m in model.denoiser.named_modules() if ".attn1." in n and isinstance(m, torch.nn.Linear)]
    assert list(lora.layers) == names and len(names) == 16
    with torch.no_grad():
        for parameter in lora.parameters():
            parameter.normal_(generator=torch.Generator().manual_seed(3))
        plain = model.predict(x, 500, told()).eps
        with lora.on_model(model, 0.7):
            found = model.predict(x, 500, told()).eps
        own = {n: model.denoiser.get_submodule(n).weight.clone() for n in names}
        for name, layer in lora.layers.items():
            added = layer.lora_B["slider"].weight @ layer.lora_A["slider"].weight
            model.denoiser.get_submodule(name).weight.add_(0.7 * 1.0 / 2 * added)
        expected = model.predict(x, 500, told()).eps
        for name, weight in own.items():
            model.denoiser.get_submodule(name).weight.copy_(weight)
        assert torch.equal(model.predict(x, 500, told()).eps, plain)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3)
    assert not torch.allclose(found, plain, atol=1e-3)


@needs_peft
def test_the_loss_is_the_distance_from_the_guided_difference_and_its_gradient_reaches_the_lora_alone():
    model, x = small_text().model, noise(1)
    lora, lesson = Lora.on(model, attention(model, "all"), 2, 1.0, 0), Lesson.of(model, ("a cat", "a dog", "a"), 3.0)
    with torch.no_grad():
        for parameter in lora.parameters():
            parameter.normal_(std=0.1)
        neutral, positive, opposite = (
            model.predict(x, 500, told(text, guidance=1.0)).eps for text in ("a cat", "a dog", "a")
        )
        with lora.on_model(model, 1.0):
            slid = model.predict(x, 500, told("a cat", guidance=1.0)).eps
    with lora.on_model(model, 1.0):
        loss = slider_loss(model, lora, lesson, x, 500, 4.0)
        loss.backward()
    torch.testing.assert_close(loss, (slid - neutral - 4 * (positive - opposite)).square().mean())
    assert all(p.grad is not None for p in lora.parameters())
    assert all(p.grad is None for p in model.denoiser.parameters())


@needs_peft
def test_training_brings_the_loss_down_and_preserved_texts_are_all_taught():
    data = small_text()
    chosen = method("text_slider", iterations=40, steps=4, lr=2e-2, preserve=("on", "a"))
    assert chosen.texts(DOG) == [("on cat", "on dog", "on cat"), ("a cat", "a dog", "a cat")]
    editor = fit(chosen, DOG, data)
    for texts in chosen.texts(DOG):
        lesson, losses = Lesson.of(data.model, texts, 3.0), []
        for strength in (0.0, 1.0):
            kept = [p.detach().clone() for p in editor.lora.parameters()]
            with torch.no_grad(), editor.lora.on_model(data.model, 1.0):
                if strength == 0:
                    for parameter in editor.lora.parameters():
                        parameter.zero_()
                losses.append(float(slider_loss(data.model, editor.lora, lesson, noise(4), 500, 4.0)))
                for parameter, own in zip(editor.lora.parameters(), kept, strict=True):
                    parameter.copy_(own)
        assert losses[1] < 0.9 * losses[0]


@needs_peft
def test_a_slider_acts_below_its_timestep_only():
    data = small_text()
    quick = {"iterations": 2, "steps": 4, "lr": 0.05}
    whole, late, never = (fit(method("text_slider", below=t, **quick), DOG, data) for t in (1000, 500, 0))
    plain = edit_images(data.model, whole, 0.0, noise(), LOOP, told())
    images = [edit_images(data.model, editor, 1.0, noise(), LOOP, told()) for editor in (whole, late, never)]
    torch.testing.assert_close(images[2], plain)
    assert not torch.allclose(images[0], plain, atol=1e-3) and not torch.allclose(images[1], images[0], atol=1e-4)
    assert applicable(method("text_slider"), data) is None
