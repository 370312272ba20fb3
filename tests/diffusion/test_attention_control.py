"""Taking part in attention: the explicit pass is the layer's own, and everything is put back."""

import pytest
import torch

from sparsight import SparsightError
from sparsight.diffusion.attention_control import AttentionControl, attention_layers, control_attention
from tiny import tiny_unet
from tiny_text import tiny_text_model


class Watching(AttentionControl):
    def __init__(self, wanted=True):
        self.wanted, self.seen = wanted, []

    def wants(self, layer):
        return self.wanted

    def weights(self, layer, weights):
        self.seen.append((layer.name, weights))
        return weights


class Doubling(AttentionControl):
    """Queries turned up, so that the weights are sharper."""

    def wants(self, layer):
        return not layer.cross

    def parts(self, layer, query, key, value):
        return 2 * query, key, value


def scene():
    model = tiny_text_model()
    return model, torch.randn(2, *model.latent_shape), model.encode_prompts(["a cat", "a dog"], guidance=2.0)


@torch.no_grad()
def test_a_control_that_changes_nothing_leaves_the_pass_and_hears_layers_in_their_order():
    model, x, told = scene()
    plain = model.predict(x, 500, told).eps
    with control_attention(model.denoiser, Watching(wanted=False)):
        assert torch.equal(model.predict(x, 500, told).eps, plain)
    control = Watching()
    with control_attention(model.denoiser, control):
        torch.testing.assert_close(model.predict(x, 500, told).eps, plain, rtol=1e-4, atol=1e-5)
    assert [name for name, _ in control.seen] == [layer.name for layer in attention_layers(model.denoiser)]
    for _, weights in control.seen:
        torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights.sum(-1)))
    for cross in (False, True):
        own = [layer for layer in attention_layers(model.denoiser) if layer.cross == cross]
        assert [layer.index for layer in own] == list(range(own[0].count))
    assert torch.equal(model.predict(x, 500, told).eps, plain)


@torch.no_grad()
def test_what_a_control_changes_is_what_is_attended_with():
    model, x, told = scene()
    with control_attention(model.denoiser, Doubling()):
        found = model.predict(x, 500, told).eps
    layers = [m for layer, m in attention_layers(model.denoiser).items() if not layer.cross]
    for layer in layers:  # the same by the weights of the layer
        layer.to_q.weight.mul_(2)
    torch.testing.assert_close(found, model.predict(x, 500, told).eps, rtol=1e-4, atol=1e-5)


def test_the_layers_own_processors_come_back_after_an_error_too():
    model, x, told = scene()
    own = {name: m.processor for name, m in model.denoiser.named_modules() if hasattr(m, "processor")}

    class Broken(AttentionControl):
        def weights(self, layer, weights):
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"), control_attention(model.denoiser, Broken()):
        model.predict(x, 500, told)
    assert all(m.processor is own[n] for n, m in model.denoiser.named_modules() if n in own)
    with (
        pytest.raises(SparsightError, match="no cross-attention"),
        control_attention(tiny_unet(), AttentionControl()),
    ):
        pass
