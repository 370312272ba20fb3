"""Listening to cross-attention: the pass stays what it was, and the weights are those of the equation."""

import pytest
import torch

from sparsight import SparsightError
from sparsight.diffusion.attention import listen_to_attention
from tiny_text import tiny_text_model


def test_listening_changes_nothing_and_hears_the_softmax():
    model = tiny_text_model()
    unet, x = model.denoiser, torch.randn(2, *model.latent_shape)
    told = model.encode_prompts(["a cat", "a dog"], guidance=2.0)
    with torch.no_grad():
        quiet = model.predict(x, 500, told)
        name, layer = next((n, m) for n, m in unet.named_modules() if n.endswith("attn2"))
        seen = {}
        keep = lambda m, a, k: seen.update(x=a[0], text=k["encoder_hidden_states"])  # noqa: E731
        handle = layer.register_forward_pre_hook(keep, with_kwargs=True)
        with listen_to_attention(unet) as heard:
            loud = model.predict(x, 500, told)
        handle.remove()
    assert torch.equal(quiet.x0, loud.x0) and torch.equal(quiet.eps, loud.eps)
    weights, grid = heard[name]
    assert weights.shape[0] == 4 and grid[0] * grid[1] == weights.shape[2]
    torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights.sum(-1)))
    q = layer.to_q(seen["x"]).unflatten(-1, (layer.heads, -1)).transpose(1, 2)
    k = layer.to_k(seen["text"]).unflatten(-1, (layer.heads, -1)).transpose(1, 2)
    wanted = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1)
    torch.testing.assert_close(weights, wanted, atol=1e-5, rtol=1e-4)
    with torch.no_grad():
        assert torch.equal(model.predict(x, 500, told).x0, quiet.x0)


def test_a_model_without_text_has_nothing_to_listen_to():
    with pytest.raises(SparsightError, match="no cross-attention"), listen_to_attention(torch.nn.Linear(2, 2)):
        pass
