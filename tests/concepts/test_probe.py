import numpy as np
import pytest
import torch

from sparsight.concepts.probe import pool, pool_by_image, probe_accuracy
from sparsight.errors import SparsightError

ORDER = [7, 3, *(i for i in range(20) if i not in (3, 7))]


def data(n=240, gap=4.0, seed=0):
    generator = np.random.default_rng(seed)
    labels = (generator.uniform(size=n) < 0.3).astype(int)
    features = generator.normal(size=(n, 20))
    features[:, 7] += gap * labels
    return features, labels


def test_separable_data_is_near_one_and_shuffled_labels_near_a_half():
    result = probe_accuracy(*data(gap=12), ORDER)
    assert list(result) == ["top1", "top2", "top4", "top8", "top16", "shuffled"]
    assert all(result[f"top{k}"].value > 0.99 for k in (1, 2, 4, 8, 16))
    assert 0.35 < result["shuffled"].value < 0.65


def test_only_the_chosen_latents_are_read():
    features, labels = data()
    informed = probe_accuracy(features, labels, ORDER, tops=(1,))
    blind = probe_accuracy(features, labels, [i for i in ORDER if i != 7], tops=(1, 16))
    assert informed["top1"].value > 0.93
    assert blind["top16"].value < 0.65


def test_two_latents_can_know_what_one_cannot():
    generator = np.random.default_rng(0)
    labels = np.repeat([0, 1], 100)
    common = generator.normal(size=200) * 5
    features = np.stack([common, common + 3.0 * labels], axis=1)
    result = probe_accuracy(features, labels, [0, 1], tops=(1, 2))
    assert result["top1"].value < 0.65 and result["top2"].value > 0.99


def test_classes_are_balanced_so_that_the_majority_gains_nothing():
    features, labels = data(gap=0)
    result = probe_accuracy(features, labels, ORDER, tops=(2,))
    assert result["top2"].n == 2 * labels.sum()
    assert result["top2"].value < 0.65


def test_the_seed_decides():
    features, labels = data(gap=1)
    first = probe_accuracy(features, labels, ORDER, tops=(4,), seed=1)
    assert first == probe_accuracy(torch.tensor(features), torch.tensor(labels).bool(), ORDER, tops=(4,), seed=1)
    assert first != probe_accuracy(features, labels, ORDER, tops=(4,), seed=2)


def test_dead_latents_are_harmless():
    features, labels = data()
    features[:, 3] = 0
    assert probe_accuracy(features, labels, ORDER, tops=(2,))["top2"].value > 0.93


def test_pools():
    codes = torch.arange(24.0).view(2, 3, 2, 2)
    assert pool(codes).tolist() == [[5, 6], [17, 18]]
    assert pool(codes, "max").tolist() == [[10, 11], [22, 23]]
    assert torch.equal(pool(codes[:, 0, 0]), codes[:, 0, 0])


def test_pool_by_image():
    codes = torch.tensor([[[1.0], [3.0]], [[10.0], [20.0]], [[5.0], [7.0]]])
    ids, mean = pool_by_image(codes, torch.tensor([9, 4, 9]))
    assert ids.tolist() == [4, 9] and mean.tolist() == [[15], [4]]
    assert pool_by_image(codes, torch.tensor([9, 4, 9]), "max")[1].tolist() == [[20], [7]]
    negative = pool_by_image(-codes, torch.tensor([9, 4, 9]), "max")[1]
    assert negative.tolist() == [[-10], [-1]]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"order": ORDER[:3]}, "of 3 ranked latents"),
        ({"order": [99, *ORDER]}, "outside 0 to 19"),
        ({"folds": 200}, "200 folds"),
        ({"labels": np.full(240, 2)}, "must be 0 or 1"),
        ({"labels": np.ones(3)}, "features"),
    ],
)
def test_mistakes_are_named(change, words):
    features, labels = data()
    with pytest.raises(SparsightError, match=words):
        probe_accuracy(**{"features": features, "labels": labels, "order": ORDER, **change})


def test_pool_mistakes_are_named():
    with pytest.raises(SparsightError, match="did you mean 'mean'"):
        pool(torch.ones(2, 2), "meen")
    with pytest.raises(SparsightError, match="not empty"):
        pool(torch.ones(2, 0, 3))
    with pytest.raises(SparsightError, match="image ids"):
        pool_by_image(torch.ones(2, 3), torch.tensor([1]))
