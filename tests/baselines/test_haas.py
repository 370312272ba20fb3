from dataclasses import replace

import pytest
import torch
from sklearn.decomposition import PCA

from baselines.small_data import BRIGHT, COUNT, labels, small_data
from sparsight import SparsightError
from sparsight.baselines import fit, method
from sparsight.baselines.haas import extremes, named, principal, project_out
from sparsight.baselines.jacobian import noise_of_site


def test_principal_components_are_scikit_learns_times_their_deviations():
    tokens = torch.randn(12, 4, 5, generator=torch.Generator().manual_seed(0))
    found, expected = principal(tokens, 6), PCA(6).fit(tokens.flatten(1).double().numpy())
    parts = torch.tensor(expected.components_) * torch.tensor(expected.explained_variance_).sqrt()[:, None]
    signs = (found.flatten(1).double() * parts).sum(1).sign()
    torch.testing.assert_close(found.flatten(1).double() * signs[:, None], parts, rtol=1e-4, atol=1e-4)
    assert principal(tokens, 50).shape == (11, 4, 5)


def test_a_supervised_direction_is_the_mean_of_the_extremes():
    data, scores = small_data(), torch.tensor([0.3, 2.0, -1.0, 0.9, 0.1, -3.0, 0.5, 0.0])
    high, low = extremes(scores, 2)
    assert sorted(high.tolist()) == [1, 3] and sorted(low.tolist()) == [2, 5]
    scored = {**data.sources, "labels": lambda: lambda name, numbers: scores}
    editor = fit(method("haas_supervised", extremes=2), BRIGHT, replace(data, sources=scored))
    (steering,) = editor.interventions(1.0)
    for t in (900, 600):
        tokens = data.at(t, "tokens")["tokens"]
        expected = tokens[[1, 3]].mean(0) - tokens[[2, 5]].mean(0)
        shift = steering.shift_at(torch.zeros(1, 16, 64), t)
        torch.testing.assert_close(shift / steering.unit, expected)


def test_yes_and_no_labels_take_as_many_of_either_kind():
    high, low = extremes(torch.tensor([False, True, True, False, True]), 2)
    assert high.tolist() == [1, 2] and set(low.tolist()) <= {0, 3}
    with pytest.raises(SparsightError, match="with the concept and images without"):
        extremes(torch.ones(4, dtype=torch.bool), 2)


def test_projecting_out_leaves_what_is_orthogonal_to_the_others_and_no_more():
    dice = torch.Generator().manual_seed(2)
    n, a, b = (torch.randn(4, 5, generator=dice, dtype=torch.float64) for _ in range(3))
    left = project_out(n, [a, b])
    assert abs(float((left * a).sum())) < 1e-9 and abs(float((left * b).sum())) < 1e-9
    N = torch.stack([a.flatten(), b.flatten()], 1)  # the paper's form: n - N (N'N)^-1 N' n
    torch.testing.assert_close(left.flatten(), n.flatten() - N @ torch.linalg.inv(N.T @ N) @ N.T @ n.flatten())
    assert project_out(n, []) is n


def test_other_concepts_are_projected_out_at_every_timestep():
    data = small_data()
    (steering,) = fit(method("haas_supervised", against=("Low",)), BRIGHT, data).interventions(1.0)
    low = labels("Low", range(COUNT))
    for t in (900, 600):
        tokens = data.at(t, "tokens")["tokens"]
        other = tokens[low].mean(0) - tokens[~low].mean(0)
        shift = steering.shift_at(torch.zeros(1, 16, 64), t)
        assert abs(float(torch.cosine_similarity(shift.flatten(), other.flatten(), dim=0))) < 1e-4


def test_the_labels_name_one_component_and_its_sign_at_every_timestep():
    parts = {t: torch.eye(6)[:3].reshape(3, 2, 3) * torch.tensor([1.0, sign, 1.0]).reshape(3, 1, 1)
             for t, sign in ((900, 1), (600, -1))}  # fmt: skip
    wanted = torch.tensor([0.1, 0.9, 0.2, 0.0, 0.0, 0.0]).reshape(2, 3)
    found = named(parts, {900: wanted, 600: wanted})
    for direction in found.values():
        assert torch.equal(direction, torch.eye(6)[1].reshape(2, 3))


def test_the_jacobians_direction_is_a_singular_vector_of_the_written_out_jacobian():
    data = small_data()
    chosen = method("haas_jacobian", images=1, t=700, count=2, iterations=400, tolerance=1e-4)
    (steering,) = fit(chosen, BRIGHT, data).interventions(1.0)
    found = steering.shift_at(torch.zeros(1, 16, 64), 700).flatten()
    at = noise_of_site(data.model, "mid_block", data.at(700, "x_t")["x_t"][:1], 700)
    rows = [at.pull(torch.eye(192)[[i]])[0].flatten() for i in range(192)]
    _, _, right = torch.linalg.svd(torch.stack(rows), full_matrices=False)
    cosines = torch.cosine_similarity(right[:2], found[None]).abs()
    assert float(cosines.max()) > 0.99
    assert torch.equal(found, steering.shift_at(torch.zeros(1, 16, 64), 900).flatten())  # one for all timesteps
