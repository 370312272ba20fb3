import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsight.errors import SparsightError
from sparsight.metrics import clip_score, cosine, directional_loss, directional_similarity

E = torch.eye(4, dtype=torch.float64)


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_scores_in_closed_form():
    images = torch.stack([E[0], E[0] + E[1], E[1], -E[0]])
    assert cosine(images, E[0]).tolist() == pytest.approx([1, math.sqrt(0.5), 0, -1])
    assert clip_score(images, 7 * E[0]).tolist() == pytest.approx([100, 100 * math.sqrt(0.5), 0, 0])


def test_zero_embedding_scores_zero():
    assert cosine(torch.zeros(2, 4), torch.ones(2, 4)).tolist() == [0, 0]


@settings(max_examples=20, deadline=None)
@given(st.floats(0.01, 100), st.integers(0, 100))
def test_length_does_not_matter(scale, seed):
    before, after, t0, t1 = normal(3, 5), normal(3, 5, seed=seed + 1), normal(5, seed=200), normal(5, seed=201)
    first = directional_similarity(before, after, t0, t1)
    assert torch.allclose(first, directional_similarity(scale * before, after / scale, t0 * scale, t1))
    assert first.abs().max() <= 1 + 1e-9


def test_direction_in_closed_form():
    along = directional_similarity(E[:1], E[1:2], E[0], E[1])
    against = directional_similarity(E[1:2], E[:1], E[0], E[1])
    beside = directional_similarity(E[2:3], E[3:], E[0], E[1])
    assert [x.item() for x in (along, against, beside)] == pytest.approx([1, -1, 0])


def test_no_change_has_no_direction():
    assert directional_similarity(E[:2], E[:2], E[0], E[1]).tolist() == [0, 0]


@pytest.mark.parametrize("form", ["cosine", "log"])
def test_gradient_matches_finite_differences(form):
    before, t0, t1 = normal(2, 5), normal(5, seed=2), normal(5, seed=3)

    def loss(after):
        return directional_loss(before, after, t0, t1, form=form, softening=0.1)

    assert torch.autograd.gradcheck(loss, (normal(2, 5, seed=1).requires_grad_(),))
    assert torch.autograd.gradcheck(loss, (before.clone().requires_grad_(),))  # an edit of exactly zero


@pytest.mark.parametrize("form", ["cosine", "log"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_zero_edit_has_a_finite_gradient_towards_the_text(form, dtype):
    before, text = E[2:3].to(dtype), E.to(dtype)
    after = before.clone().requires_grad_()
    loss = directional_loss(before, after, text[0], text[1], form=form)
    loss.backward()
    assert loss.item() == pytest.approx(1 if form == "cosine" else math.log(2))
    assert torch.isfinite(after.grad).all()
    assert -after.grad @ (text[1] - text[0]) > 0
    assert after.grad.norm() <= 1.01e3  # 1 / softening


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_finite(dtype):
    after = E[:1].to(dtype).requires_grad_()
    directional_loss(E[:1].to(dtype), after, E[0].to(dtype), E[1].to(dtype)).backward()
    assert torch.isfinite(after.grad).all()


def test_loss_forms_in_closed_form():
    change = (E[:1], E[1:2])
    for cos, texts in ((1.0, (E[0], E[1])), (0.0, (E[2], E[3])), (0.5, (E[0], E[2]))):
        assert directional_loss(*change, *texts).item() == pytest.approx(1 - cos, abs=1e-5)
        assert directional_loss(*change, *texts, form="log").item() == pytest.approx(-math.log((1 + cos) / 2), abs=1e-5)
    assert math.isfinite(directional_loss(*change, E[1], E[0], form="log").item())


def test_softening_is_invisible_at_the_length_the_docstring_names():
    before, t0, t1 = normal(1, 5), normal(5, seed=2), normal(5, seed=3)
    before = before / before.norm()
    after = before + 0.05 * torch.linalg.qr(torch.cat([before.T, normal(5, 1, seed=5)], 1)).Q[:, 1]
    exact = 1 - directional_similarity(before, after, t0, t1).item()
    assert directional_loss(before, after, t0, t1).item() - 1 == pytest.approx(exact - 1, rel=3e-4)


def test_following_the_gradient_from_zero_reaches_the_text_direction():
    before, after = E[:1].clone(), E[:1].clone().requires_grad_()
    optimiser = torch.optim.Adam([after], lr=0.01)
    for _ in range(100):
        optimiser.zero_grad()
        loss = directional_loss(before, after, E[0], E[1])
        loss.backward()
        optimiser.step()
    assert loss.item() < 0.3


def test_mistakes_are_named():
    with pytest.raises(SparsightError, match="same point"):
        directional_loss(E[:1], E[1:2], E[0], 2 * E[0])
    with pytest.raises(SparsightError, match="did you mean 'cosine'"):
        directional_loss(E[:1], E[1:2], E[0], E[1], form="cosin")
    with pytest.raises(SparsightError, match="embeddings must be"):
        cosine(E[:2], E[:3])
