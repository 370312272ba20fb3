import pytest
import torch

from sparsight import DiffusionModel, Loop, SparsightError, invert, load_world, sample
from sparsight.metrics import attribute_agreement, psnr
from sparsight.steering.causal import attributes_followed, swap_test


@pytest.fixture(scope="module")
def world():
    return load_world("worlds/avatars")


@pytest.fixture(scope="module")
def model(world):
    return DiffusionModel.load(world.model)


def test_the_worlds_folder_is_an_ordinary_pipeline(world, model):
    from diffusers import LDMPipeline

    pipeline = LDMPipeline.from_pretrained(world.folder / "model")
    x = torch.randn(2, *model.latent_shape)
    with torch.no_grad():
        output = pipeline.unet(x, 300).sample
        torch.testing.assert_close(model.predict(x, 300), model.schedule.convert(output, x, 300))
    assert model.latent_shape == (16, 8, 8) and model.image_size == (64, 64)
    assert model.site("mid_block").channels == 256 and model.site("mid_block").grid == (8, 8)


def test_latents_have_unit_variance(world, model):
    latents = model.encode(world.source("held-out").batch(range(64)))
    assert abs(latents.std() - 1) < 0.1 and abs(latents.mean()) < 0.1


def test_inversion_and_back_keeps_the_face(world, model):
    images = world.source("held-out").batch(range(6))
    loop = Loop(steps=40)
    with torch.no_grad():
        back = model.decode(sample(model, invert(model, model.encode(images), loop), loop)).clamp(-1, 1)
        judge = world.classifiers["resnet"]
        kept = attribute_agreement(judge(images), judge(back)).value
    assert psnr(images, back).mean() > 20 and kept > 0.9


def test_the_bottleneck_is_causal(world, model):
    """The face follows the tokens of the mid block, as docs/worlds.md says at length."""
    noise = torch.randn(6, *model.latent_shape, generator=torch.Generator().manual_seed(0))
    swap = swap_test(model, "mid_block", noise, Loop(steps=12))
    with torch.no_grad():
        own, donor, swapped = (world.classifiers["resnet"](x) > 0 for x in (swap.own, swap.donor, swap.swapped))
    assert attributes_followed(own, donor, swapped) > 0.5


def test_swapping_a_face_with_itself_changes_nothing(model):
    noise = torch.randn(1, *model.latent_shape)
    swap = swap_test(model, "mid_block", noise, Loop(steps=6))
    torch.testing.assert_close(swap.swapped, swap.own)


def test_eligible_faces_lack_the_attribute_and_their_counterfactuals_have_it(world):
    numbers = world.eligible("test", "Eyeglasses", 5)
    column = world.attributes.index("Eyeglasses")
    assert not world.source("test").labels(numbers)[:, column].any()
    truth = world.counterfactuals("test", numbers, "Eyeglasses")
    with torch.no_grad():
        assert (world.classifiers["resnet"](truth)[:, column] > 0).all()


def test_renders_are_valid_faces_and_noise_is_not(world):
    renders = world.source("test").batch(range(64))
    assert world.validity(renders).float().mean() > 0.9
    assert not world.validity(torch.rand(8, 3, 64, 64) * 2 - 1).any()
    assert not world.validity(renders.flip(2)).any()  # upside down
    two_mouths = renders.clone()
    two_mouths[:, :, 8:24, 20:44] = renders[:, :, 40:56, 20:44]
    assert world.validity(two_mouths).float().mean() < 0.2


def test_unknown_names_are_refused(world):
    with pytest.raises(SparsightError, match="did you mean 'worlds/avatars'"):
        load_world("worlds/avatar")
    with pytest.raises(SparsightError, match="unknown split"):
        world.source("tset")
