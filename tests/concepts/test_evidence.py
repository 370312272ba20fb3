"""Evidence of latents against scikit-learn's naive Bayes, a loop written out, and codes whose answer is planted."""

import math

import numpy as np
import pytest
import torch
from sklearn.naive_bayes import BernoulliNB

from concepts.planted import LABELS, code_of, random_case, rectangle
from sparsight.concepts import Annotation, Evidence, targets_of
from sparsight.errors import SparsightError

GRID, SIZE = (4, 5), (16, 25)


def counted(maps, objects, smoothing=5.0, labels=LABELS, temper=1.0):
    found = Evidence(maps.shape[1], GRID, labels, smoothing, temper)
    found.add(code_of(maps[:2]), objects[:2])
    found.add(code_of(maps[2:]), objects[2:])
    return found


def test_without_smoothing_it_is_scikit_learns_bernoulli_naive_bayes():
    """Masks of whole cells, so that each position is in one class; every latent is sometimes on and sometimes off in both."""
    dice = torch.Generator().manual_seed(3)
    maps = (torch.rand(12, 6, *GRID, generator=dice) - 0.4).clamp_min(0)
    masks = [rectangle(SIZE, 4 * (i % 3), 5 * (i % 4), 8, 10) for i in range(12)]
    objects = [[Annotation.of("cat", mask)] for mask in masks]
    found = counted(maps, objects, smoothing=0.0, labels=["cat"])
    X = (maps > 0).permute(0, 2, 3, 1).flatten(0, 2).numpy()
    y = torch.stack([m[::4, ::5] for m in masks]).flatten().numpy()
    judge = BernoulliNB(alpha=0.0, force_alpha=True).fit(X, y)
    expected = np.diff(judge.predict_joint_log_proba(X))[:, 0]
    scores = found.scores(code_of(maps), targets_of(objects))
    torch.testing.assert_close(scores.logit().flatten(), torch.tensor(expected).float(), atol=1e-3, rtol=1e-4)
    tempered = counted(maps, objects, smoothing=0.0, labels=["cat"], temper=4.0)
    surer = tempered.scores(code_of(maps), targets_of(objects)).logit() * 4
    torch.testing.assert_close(surer, scores.logit(), atol=1e-3, rtol=1e-4)


def test_every_number_by_a_loop():
    maps, objects = random_case(5)
    found, s = counted(maps, objects), 5.0
    pixels = SIZE[0] // GRID[0] * (SIZE[1] // GRID[1])
    share = torch.zeros(len(objects), *GRID, len(LABELS))
    for i, own in enumerate(objects):
        for label in {a.label for a in own}:
            mask = torch.stack([a.mask for a in own if a.label == label]).any(0)
            blocks = mask.unfold(0, 4, 4).unfold(1, 5, 5).sum((-1, -2)) / pixels
            share[i, ..., LABELS.index(label)] = blocks
    on, total = (maps > 0).permute(0, 2, 3, 1), maps[:, 0].numel()
    targets = targets_of(objects)
    scores = found.scores(code_of(maps), targets)
    for row, (image, noun) in enumerate(zip(targets.image.tolist(), targets.nouns, strict=True)):
        f = share[..., LABELS.index(noun)]
        prior = float(f.sum()) / (int(f.flatten(1).any(1).sum()) * GRID[0] * GRID[1])
        y, x = row % GRID[0], (2 * row) % GRID[1]
        odds = math.log(prior / (1 - prior))
        for latent in range(maps.shape[1]):
            a = on[..., latent].float()
            rate = min(max(float(a.mean()), 1e-6), 1 - 1e-6)
            p = min(max((float((a * f).sum()) + s * rate) / (float(f.sum()) + s), 1e-6), 1 - 1e-6)
            q = min(max((float((a * (1 - f)).sum()) + s * rate) / (total - float(f.sum()) + s), 1e-6), 1 - 1e-6)
            odds += math.log(p / q) if on[image, y, x, latent] else math.log((1 - p) / (1 - q))
        assert float(scores[row, y, x]) == pytest.approx(1 / (1 + math.exp(-odds)), abs=1e-4)


def test_a_latent_that_marks_a_thing_is_believed_and_one_that_is_everywhere_says_nothing():
    masks = [rectangle(SIZE, 0, 0, 8, 10), rectangle(SIZE, 8, 10, 8, 15)] * 2
    objects = [[Annotation.of("cat", mask)] for mask in masks]
    cells = torch.stack([m[::4, ::5] for m in masks])[:, None].float()
    everywhere = torch.ones_like(cells)
    found = counted(torch.cat([cells, everywhere], 1), objects)
    targets = targets_of(objects)
    scores = found.scores(code_of(torch.cat([cells, everywhere], 1)), targets)
    assert bool(((scores > 0.5) == cells[:, 0].bool()).all())
    without = found.scores(code_of(torch.cat([cells, 0 * everywhere], 1)), targets)
    assert bool(((without > 0.5) == cells[:, 0].bool()).all())


def test_an_unseen_noun_and_what_does_not_fit():
    maps, objects = random_case(5)
    found = counted(maps, objects, labels=["cat"])
    dog = targets_of([[Annotation.of("dog", rectangle(SIZE, 0, 0, 8, 10))] for _ in range(2)])
    assert torch.equal(found.scores(code_of(maps[:2]), dog), torch.full((2, *GRID), 0.5))
    with pytest.raises(SparsightError, match="are not 3 images' whole grids of 4x5"):
        found.add(code_of(maps[:2]), objects[:3])
    with pytest.raises(SparsightError, match="name latent 8, but the SAE has 4"):
        Evidence(4, GRID, LABELS).add(code_of(maps), objects)
    with pytest.raises(SparsightError, match="seen no annotated image"):
        Evidence(9, GRID, LABELS).scores(code_of(maps[:2]), dog)
    with pytest.raises(SparsightError, match="codes are of 1 images, but a target is in image 1"):
        found.scores(code_of(maps[:1]), dog)


def test_the_best_latents_of_a_noun_are_sure_and_often_active_on_it():
    masks = [rectangle(SIZE, 0, 0, 8, 10), rectangle(SIZE, 8, 10, 8, 15)] * 2
    cells = torch.stack([m[::4, ::5] for m in masks]).float()
    once = torch.zeros_like(cells)
    once[0, 0, 0] = 1  # on the cat, and surely so, but once
    wide = torch.ones_like(cells)
    wide[:, -1] = 0  # on it and nearly everywhere else
    beside = 1 - cells
    found = counted(torch.stack([wide, once, cells, beside], 1), [[Annotation.of("cat", mask)] for mask in masks])
    p, q = (rate[:, LABELS.index("cat")] for rate in found.rates())
    assert float(p[2]) > 0.8 and float(q[2]) < 0.2 and float(p[3]) < float(q[3])
    assert found.best("cat", 1) == [2] and 3 not in found.best("cat")
    gain = (p * (p / q).log()).tolist()
    assert found.best("cat") == [i for i in range(4) if gain[i] > 0] and gain[2] > max(gain[0], gain[1])
    assert found.best("dog") == found.best("unicorn") == []
