import pytest
import torch
from torch import nn

from sparsight.worlds.avatars import denoiser as dn
from sparsight.worlds.avatars.autoencoder import build_autoencoder, standardise
from sparsight.worlds.training import Training


def test_the_exported_unet_is_the_one_that_was_trained():
    torch.manual_seed(0)
    trained = dn.without_skips(dn.build_unet())
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    exported = dn.export_unet(trained.eval())
    x, t = torch.randn(2, 16, 8, 8), torch.tensor([3, 800])
    with torch.no_grad():
        torch.testing.assert_close(exported(x, t).sample, trained(x, t).sample, atol=1e-5, rtol=1e-5)
    assert not list(exported.up_blocks[0]._forward_pre_hooks)


def test_standardising_changes_latents_and_not_pictures():
    model = build_autoencoder().eval()
    images = torch.rand(8, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        before = model.decode(model.encode(images).latent_dist.mean).sample
        standardise(model, images)
        latents = model.encode(images).latent_dist.mean
        torch.testing.assert_close(model.decode(latents).sample, before, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(latents.std((0, 2, 3)), torch.ones(16), atol=1e-3, rtol=1e-3)


def _train(folder, steps_before_stop=None):
    torch.manual_seed(0)
    model = nn.Linear(4, 1)
    training = Training(model, folder, steps=12, learning_rate=0.05, warmup=2, checkpoint_every=4)

    def loss(generator):
        x = torch.randn(16, 4, generator=generator)
        return (model(x) - x.sum(1, keepdim=True)).square().mean()

    def progress(step, steps, value):
        if step == steps_before_stop:
            raise KeyboardInterrupt

    training.run(loss, progress)
    return training.averaged


def test_a_killed_training_ends_like_an_undisturbed_one(tmp_path):
    whole = _train(tmp_path / "a")
    with pytest.raises(KeyboardInterrupt):
        _train(tmp_path / "b", steps_before_stop=7)
    resumed = _train(tmp_path / "b")
    assert torch.equal(resumed.weight, whole.weight) and torch.equal(resumed.bias, whole.bias)
