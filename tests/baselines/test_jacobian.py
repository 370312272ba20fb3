import torch

from baselines.small_data import noise, small_data
from sparsight.baselines.jacobian import Linearised, noise_of_site, site_of_state, subspace


def _mild(x):
    mix = torch.randn(5, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return (x @ mix).tanh() + x.square().sum(1, keepdim=True)


def test_products_with_a_jacobian_are_those_of_the_written_out_matrix():
    x, u = torch.randn(3, 5, dtype=torch.float64), torch.randn(3, 7, dtype=torch.float64)
    v, at = torch.randn(3, 5, dtype=torch.float64), Linearised.of(_mild, x)
    for row in range(3):
        dense = torch.autograd.functional.jacobian(lambda one: _mild(one[None])[0], x[row])
        torch.testing.assert_close(at.push(v)[row], dense @ v[row])
        torch.testing.assert_close(at.pull(u)[row], dense.T @ u[row])


def test_a_subspace_is_the_leading_singular_vectors_of_each_row():
    x = torch.randn(3, 5, dtype=torch.float64)
    vectors, values = subspace(Linearised.of(_mild, x), 3, iterations=3000, tolerance=1e-9)
    for row in range(3):
        dense = torch.autograd.functional.jacobian(lambda one: _mild(one[None])[0], x[row])
        _, sizes, right = torch.linalg.svd(dense)
        torch.testing.assert_close(values[row], sizes[:3])
        torch.testing.assert_close((vectors[row] * right[:3]).sum(1).abs(), torch.ones(3, dtype=torch.float64))


def test_a_shared_subspace_is_that_of_the_mean_of_the_grams():
    x = torch.randn(4, 5, dtype=torch.float64)
    vectors, values = subspace(Linearised.of(_mild, x), 2, shared=True, iterations=3000, tolerance=1e-9)
    grams = []
    for row in x:
        dense = torch.autograd.functional.jacobian(lambda one: _mild(one[None])[0], row)
        grams.append(dense.T @ dense)
    sizes, right = torch.linalg.eigh(torch.stack(grams).mean(0))
    torch.testing.assert_close(values[0], sizes.flip(0)[:2].sqrt())
    expected = right.flip(1)[:, :2].T
    torch.testing.assert_close((vectors[0] * expected).sum(1).abs(), torch.ones(2, dtype=torch.float64))


def test_the_model_is_derived_through_its_attention_as_finite_differences_say():
    model, x, h = small_data().model, noise(), 1e-2
    v = torch.randn_like(x)

    def tokens(x):
        return model.read(x, 700, ["mid_block"])["mid_block"].flatten(1)

    with torch.no_grad():
        slope = (tokens(x + h * v) - tokens(x - h * v)) / (2 * h)
    torch.testing.assert_close(site_of_state(model, "mid_block", x, 700).push(v), slope, rtol=2e-2, atol=2e-3)
    at = noise_of_site(model, "mid_block", x, 700)
    assert at.point.shape == (2, 16, 64) and not at.point.any()
    torch.testing.assert_close(at.value, model.predict(x, 700).eps.flatten(1), rtol=1e-4, atol=1e-4)
    u = torch.randn_like(at.value)
    left, right = (at.push(torch.ones_like(at.point)) * u).sum(), at.pull(u).sum()  # <J 1, u> = <1, J' u>
    torch.testing.assert_close(left, right, rtol=1e-3, atol=1e-3)


def test_a_region_keeps_the_noise_inside_it_alone():
    model, region = small_data().model, torch.zeros(8, 8, dtype=torch.bool)
    region[2:5] = True
    at = noise_of_site(model, "mid_block", noise(), 700, region)
    assert not at.value.reshape(2, 3, 8, 8)[:, :, ~region].any()


def test_more_vectors_than_the_jacobian_has_rank_stay_orthonormal_and_get_the_value_0():
    x = torch.randn(1, 5, dtype=torch.float64)
    vectors, values = subspace(Linearised.of(lambda x: x[:, :2] * 3, x), 3)
    torch.testing.assert_close(values, torch.tensor([[3.0, 3.0, 0.0]], dtype=torch.float64))
    torch.testing.assert_close(vectors[0] @ vectors[0].T, torch.eye(3, dtype=torch.float64))
