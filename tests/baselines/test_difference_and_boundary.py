import pytest
import torch
from sklearn.svm import LinearSVC

from baselines.small_data import BRIGHT, COUNT, noise, small_data
from sparsight import Loop, SparsightError
from sparsight.baselines import edit_images, fit, method
from sparsight.baselines.boundary import across, boundary
from sparsight.baselines.difference import halves, weighted_sums
from sparsight.steering import mean_difference


def test_the_difference_of_means_is_that_of_steering_and_of_a_loop():
    data, odd = small_data(), torch.arange(COUNT) % 2 == 1
    found, rows = weighted_sums(data, halves(odd)), data.store.load("tokens", "image", "t")
    for t, difference in found.items():
        now = rows["t"] == t
        tokens, has = rows["tokens"][now], rows["image"][now] % 2 == 1
        torch.testing.assert_close(difference, mean_difference(tokens, has))
    (steering,) = fit(method("mean_difference"), BRIGHT, data).interventions(1.0)
    every = mean_difference(rows["tokens"], rows["image"] % 2 == 1).mean(0)
    assert float(torch.cosine_similarity(steering.vector, every, dim=0)) == pytest.approx(1, abs=1e-5)
    (steering,) = fit(method("mean_difference", form="map"), BRIGHT, data).interventions(1.0)
    assert steering.vector.shape == (16, 64)
    (steering,) = fit(method("mean_difference", form="timed"), BRIGHT, data).interventions(1.0)
    one, two = (steering.shift_at(torch.zeros(1, 16, 64), t) for t in (900, 600))
    torch.testing.assert_close(one / found[900], two / found[600])  # one factor for all timesteps


def test_scores_are_cut_at_their_median():
    assert halves(torch.tensor([0.1, 3.0, 2.0, -1.0])).tolist() == [-0.5, 0.5, 0.5, -0.5]
    with pytest.raises(SparsightError, match="with the concept and images without"):
        halves(torch.ones(4, dtype=torch.bool))


def test_a_boundary_is_the_one_that_the_primal_problem_has():
    dice = torch.Generator().manual_seed(0)
    points = torch.randn(24, 3, 4, generator=dice)
    labels = torch.arange(24) % 2 == 0
    points[labels, 1] += 1.0
    found = boundary(points, labels)
    flat = points.flatten(1).double().numpy()
    # the primal hinge problem, its intercept all but unpenalised
    primal = LinearSVC(C=1.0, loss="hinge", intercept_scaling=100.0, max_iter=1_000_000, tol=1e-8).fit(
        flat, labels.numpy()
    )
    expected = torch.tensor(primal.coef_[0]).float()
    assert found.normal.shape == (3, 4) and float(found.normal.norm()) == pytest.approx(1, abs=1e-6)
    assert float(torch.cosine_similarity(found.normal.flatten(), expected, dim=0)) > 0.999
    assert 0 <= found.accuracy <= 1


def test_between_two_clusters_of_equal_points_the_normal_is_their_difference():
    a, b = torch.tensor([1.0, 2.0, 0.0]), torch.tensor([0.0, 0.0, 2.0])
    found = boundary(torch.stack([a, a, a, b, b, b]), torch.tensor([True] * 3 + [False] * 3))
    torch.testing.assert_close(found.normal, (a - b) / 3.0)
    assert found.accuracy == 1.0


def test_a_push_moves_the_projection_by_the_distance_or_to_it():
    x, normal = torch.randn(5, 3, 4), torch.randn(3, 4)
    normal /= normal.norm()
    own = (x * normal).sum((1, 2))
    torch.testing.assert_close((across(x, normal, 2.5) * normal).sum((1, 2)), own + 2.5)
    to = across(x, normal, 2.5, "as_released")
    torch.testing.assert_close((to * normal).sum((1, 2)), torch.full((5,), 2.5))
    torch.testing.assert_close(to - x, (2.5 - own)[:, None, None] * normal)  # along the normal and nowhere else


@pytest.mark.parametrize("form", ["relative", "as_released"])
def test_boundary_diffusion_moves_state_and_tokens_once_and_denoises(form):
    data = small_data()
    editor, model = fit(method("boundary_diffusion", t=690, form=form), BRIGHT, data), data.model
    assert editor.t == 700
    found, x = edit_images(model, editor, 0.3, noise(), Loop(10, "plain")), noise()
    distance = 0.3 * float(data.at(700, "tokens")["tokens"].flatten(1).norm(dim=1).mean())

    class Push:
        site = "mid_block"

        def __call__(self, tokens, step):
            return across(tokens, editor.tokens.normal, distance, form)

    for t, t_next in model.pairs(10):
        if t == 700:
            x = across(x, editor.state.normal, distance, form)
        with model.edit([Push()] if t == 700 else []), torch.no_grad():
            x0, eps = model.predict(x, t)
        signal, sigma = model.schedule.levels(t_next, x)
        x = signal * x0 + sigma * eps
    torch.testing.assert_close(found, x.clamp(-1, 1))


@pytest.mark.parametrize("space", ["x_t", "site"])
def test_one_space_of_the_two_may_be_left_out(space):
    data = small_data()
    editor = fit(method("boundary_diffusion", spaces=(space,)), BRIGHT, data)
    x = noise()
    assert bool(editor.interventions(0.3)) == (space == "site")
    assert torch.equal(editor.move(data.model, x, editor.t, 0.3), x) == (space == "site")
    with pytest.raises(SparsightError, match="space of BoundaryDiffusion"):
        method("boundary_diffusion", spaces=())


def test_a_run_that_leaves_out_the_timestep_is_refused():
    data = small_data()
    editor = fit(method("boundary_diffusion"), BRIGHT, data)
    with pytest.raises(SparsightError, match="acts at timestep 500, which a run of 7 steps leaves out"):
        edit_images(data.model, editor, 1.0, noise(), Loop(7))
