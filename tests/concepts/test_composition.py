"""Composition read from codes, and its baselines, against loops, closed forms and simulations."""

import math

import pytest
import torch
import torch.nn.functional as F

from concepts.planted import code_of, iou, random_case, rectangle, upsampled
from concepts.test_dictionary import GRID, SIZE, TABLE, built, planted
from sparsight.concepts import (
    Annotation,
    ConceptReader,
    DictionaryConfig,
    MeanMap,
    PcaCoder,
    Tally,
    attention_maps,
    attention_scores,
    build_dictionary,
    chance_iou,
    iou_at,
    mean_iou,
    open_words,
    targets_of,
    token_places,
)
from sparsight.errors import SparsightError

VECTORS = {"cat": [1.0, 0.0], "dog": [0.0, 1.0], "car": [-1.0, 0.0], "red car": [-0.5, -0.5]}


def setting(seed=5):
    maps, objects = random_case(seed)
    dictionary = built(maps, objects, DictionaryConfig(iou=0.15))
    assert len(dictionary) > 3
    return maps, objects, dictionary


def slow_scores(maps, dictionary, image, noun, weighting, top, repeats):
    out = torch.full(GRID, -1.0)
    for y in range(GRID[0]):
        for x in range(GRID[1]):
            active = []
            for latent in range(maps.shape[1]):
                items = [(n, c) for n, c in dictionary.labels_of(latent) if n in VECTORS]
                if maps[image, latent, y, x] > 0 and items:
                    weights = [c if repeats else 1 for _, c in items]
                    v = [
                        sum(w * VECTORS[n][i] for (n, _), w in zip(items, weights, strict=True)) / sum(weights)
                        for i in (0, 1)
                    ]
                    active.append((float(maps[image, latent, y, x]), v))
            active = sorted(active, key=lambda pair: -pair[0])[:top]
            if active:
                a = [sum((w if weighting == "activation" else 1) * v[i] for w, v in active) for i in (0, 1)]
                b = VECTORS[noun]
                if math.hypot(*a) > 0:
                    out[y, x] = (a[0] * b[0] + a[1] * b[1]) / math.hypot(*a) / math.hypot(*b)
    return out


@pytest.mark.parametrize(
    "options", [{}, {"weighting": "plain"}, {"top": 2}, {"top": 1, "repeats": False}, {"weighting": "plain", "top": 3}]
)
def test_scores_are_cosines_with_the_mean_of_the_active_latents_embeddings(options):
    maps, objects, dictionary = setting()
    reader = ConceptReader(dictionary, TABLE, **options)
    targets = targets_of(objects, words=TABLE)
    scores = reader.scores(code_of(maps), targets)
    how = {"weighting": "activation", "top": None, "repeats": True} | options
    for row, image, noun in zip(scores, targets.image.tolist(), targets.nouns, strict=True):
        torch.testing.assert_close(row, slow_scores(maps, dictionary, image, noun, **how), atol=1e-5, rtol=1e-5)
    assert len(scores) > 4 and len(scores.unique()) > (3 if options.get("top") == 1 else 20)


def test_positions_without_an_entry_say_nothing():
    dictionary = planted()
    maps = torch.zeros(1, 5, *GRID)
    maps[0, 0, 0, 0] = 1.0
    maps[0, 3, 1, 1] = 1.0  # fires, but has no entry
    targets = targets_of([[Annotation.of("cat", rectangle(SIZE, 0, 0, 4, 5))]])
    scores = ConceptReader(dictionary, TABLE).scores(code_of(maps), targets)[0]
    assert float(scores[0, 0]) == 1 and (scores.flatten()[1:] == -1).all()


def test_a_planted_composition_is_read_back():
    dictionary = planted()
    maps = torch.zeros(2, 5, *GRID)
    maps[0, 0, :2, 1:3], maps[0, 1, 2:, :] = 4.0, 3.0
    maps[1, 0, 3, 4] = 1.0
    reader = ConceptReader(dictionary, TABLE)
    cat = reader.predict(code_of(maps), "cat", 0.5, SIZE)
    assert torch.equal(cat[0], rectangle(SIZE, 0, 5, 8, 10)) and torch.equal(cat[1], rectangle(SIZE, 12, 20, 4, 5))
    assert torch.equal(reader.predict(code_of(maps), "dog", 0.5, SIZE)[0], rectangle(SIZE, 8, 0, 8, 25))
    assert not reader.predict(code_of(maps), "car", 0.5, SIZE).any()
    assert reader.predict(code_of(maps)._replace(), "cat", 0.5, SIZE).dtype == torch.bool


def test_reading_refuses_what_does_not_belong():
    dictionary = planted()
    reader, maps = ConceptReader(dictionary, TABLE), torch.ones(1, 5, *GRID)
    with pytest.raises(SparsightError, match=r"unknown word .*'tre': did you mean 'tree'\?"):
        reader.predict(code_of(maps), "tre", 0.5, SIZE)
    with pytest.raises(SparsightError, match="the codes name latent 6, but the dictionary is of an SAE with 5"):
        reader.conceptual_map(code_of(torch.ones(1, 7, *GRID)))
    targets = targets_of([[], [Annotation.of("cat", rectangle(SIZE, 0, 0, 4, 5))]])
    for wrong in (maps, torch.ones(2, 5, 3, 3)):
        with pytest.raises(SparsightError, match="not the images' whole grids of 4x5"):
            reader.scores(code_of(wrong), targets)
    with pytest.raises(SparsightError, match="made with the word vectors table, not wordllama"):
        ConceptReader(dictionary, open_words())
    with pytest.raises(SparsightError, match="unknown weighting"):
        ConceptReader(dictionary, TABLE, weighting="softmax")
    with pytest.raises(SparsightError, match="take 1 or more"):
        ConceptReader(dictionary, TABLE, top=0)


def test_targets_are_the_nouns_that_were_annotated_and_have_vectors():
    cat, dog = rectangle(SIZE, 0, 0, 4, 4), rectangle(SIZE, 8, 8, 4, 4)
    objects = [
        [Annotation.of("cat", cat), Annotation.of("cat", dog), Annotation.of("tree", dog)],
        [],
        [Annotation.of("dog", dog)],
    ]
    found = targets_of(objects, words=TABLE)
    assert found.nouns == ["cat", "dog"] and found.image.tolist() == [0, 2] and found.dropped == {"tree": 1}
    assert torch.equal(found.masks[0], cat | dog)
    named = targets_of(objects, [["cat", "dog", "cat"], ["cat"], []])
    assert named.nouns == ["cat"] and named.dropped == {"dog": 1, "cat": 1}
    assert targets_of([[]]).masks.shape == (0, 1, 1) and targets_of([[]], size=SIZE).masks.shape == (0, *SIZE)
    with pytest.raises(SparsightError, match="3 images need as many lists of nouns, not 1"):
        targets_of(objects, [["cat"]])


def test_iou_at_thresholds_is_that_of_upsampled_maps():
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(5, *GRID, generator=generator)
    masks = torch.rand(5, *SIZE, generator=generator) < torch.rand(5, 1, 1, generator=generator)
    thresholds = (0.0, 0.3, 0.6, 2.0)
    found, coarse = iou_at(scores, masks, thresholds), iou_at(scores, masks, thresholds, "grid")
    for i in range(5):
        cover = F.adaptive_avg_pool2d(masks[i][None].double(), GRID)[0] >= 0.5
        for j, threshold in enumerate(thresholds):
            on = scores[i] > threshold
            assert float(found[i, j]) == pytest.approx(iou(upsampled(on, SIZE), masks[i]), abs=1e-6)
            assert float(coarse[i, j]) == pytest.approx(iou(on, cover), abs=1e-6)
    full = iou_at(upsampled(scores, SIZE), masks, thresholds)  # maps as large as the masks: every cell is a pixel
    torch.testing.assert_close(full, found)
    with pytest.raises(SparsightError, match="5 masks need as many maps"):
        iou_at(scores[:2], masks)
    with pytest.raises(SparsightError, match="unknown resizing"):
        iou_at(scores, masks, resize="up")


def test_a_tally_chooses_its_threshold_and_scores_by_image():
    generator = torch.Generator().manual_seed(1)
    tally, kept, place = Tally((0.2, 0.5, 0.8)), [], []
    for batch in range(4):
        objects = random_case(batch)[1]
        targets = targets_of(objects)
        scores = torch.rand(len(targets.nouns), *GRID, generator=generator)
        numbers = range(10 * batch, 10 * batch + len(objects))
        tally.add(scores, targets, numbers)
        kept.append(iou_at(scores, targets.masks, (0.2, 0.5, 0.8)))
        place += [numbers[i] for i in targets.image.tolist()]
    whole = torch.cat(kept)
    assert torch.equal(tally.iou, whole)
    means = whole.mean(0).tolist()
    assert [v for _, v in tally.curve()] == pytest.approx(means)
    assert tally.best() == (0.2, 0.5, 0.8)[means.index(max(means))]
    score = tally.score(0.5)
    assert score.iou.value == pytest.approx(means[1], abs=1e-6) and score.targets == len(whole)
    assert score.iou.n == len(set(place)) and score.iou.low < score.iou.value < score.iou.high
    assert score.to_dict()["threshold"] == 0.5 and score.to_dict()["targets"] == len(whole)
    with pytest.raises(SparsightError, match=r"0.3 was not swept"):
        tally.score(0.3)
    with pytest.raises(SparsightError, match="no target was added"):
        Tally().best()
    with pytest.raises(SparsightError, match="a threshold at least"):
        Tally(())


def test_the_interval_resamples_images_with_all_their_nouns():
    generator = torch.Generator().manual_seed(0)
    per_image = torch.rand(50, generator=generator)
    together = mean_iou(per_image.repeat_interleave(4), torch.arange(50).repeat_interleave(4))
    alone = mean_iou(per_image, torch.arange(50))
    assert together == alone  # four equal nouns an image know no more than one


@pytest.mark.parametrize(("m", "n"), [(1, 4), (3, 7), (5, 6), (6, 6)])
def test_chance_is_the_expectation_over_all_masks_of_the_area(m, n):
    from itertools import combinations

    mask = torch.zeros(1, 1, n, dtype=torch.bool)
    mask[0, 0, :m] = True
    values = [len(set(other) & set(range(m))) / len(set(other) | set(range(m))) for other in combinations(range(n), m)]
    assert float(chance_iou(mask)[0]) == pytest.approx(sum(values) / len(values))


def test_chance_is_near_its_limit_and_near_a_simulation():
    masks = torch.stack(
        [rectangle((64, 64), 3, 5, 40, 30), rectangle((64, 64), 0, 0, 8, 8), torch.zeros(64, 64).bool()]
    )
    share = masks.flatten(1).double().mean(1)
    torch.testing.assert_close(chance_iou(masks), share / (2 - share), atol=2e-4, rtol=0)
    assert chance_iou(torch.zeros(0, 3, 3, dtype=torch.bool)).shape == (0,)
    large = rectangle((512, 512), 0, 0, 300, 300)[None]
    part = 300 * 300 / 512**2
    assert float(chance_iou(large)[0]) == pytest.approx(part / (2 - part), abs=1e-5)
    mask, generator = masks[0], torch.Generator().manual_seed(0)
    drawn = [iou(mask, mask.flatten()[torch.randperm(4096, generator=generator)].reshape(64, 64)) for _ in range(200)]
    assert float(chance_iou(masks)[0]) == pytest.approx(sum(drawn) / 200, abs=2e-3)


def test_shifted_chance_is_the_mean_over_all_shifts():
    masks = torch.stack([rectangle((7, 9), 1, 2, 3, 4), rectangle((7, 9), 0, 0, 7, 9)])
    slow = [[iou(m, m.roll((dy, dx), (0, 1))) for dy in range(7) for dx in range(9)] for m in masks]
    torch.testing.assert_close(
        chance_iou(masks, "shifted"), torch.tensor(slow, dtype=torch.float64).mean(1), atol=1e-7, rtol=1e-7
    )
    with pytest.raises(SparsightError, match="unknown kind of chance"):
        chance_iou(masks, "uniform")
    with pytest.raises(SparsightError, match=r"masks \(n, H, W\) bool"):
        chance_iou(masks.float())


def test_the_mean_map_is_the_mean_of_training_masks():
    train = [random_case(seed)[1] for seed in range(3)]
    mean = MeanMap(GRID)
    with pytest.raises(SparsightError, match="no training image"):
        mean.scores(targets_of(train[0]))
    for objects in train:
        mean.add(objects)
    units = [(label, F.adaptive_avg_pool2d(torch.stack([o.mask for o in own if o.label == label]).any(0)[None].float(), GRID)[0])
             for objects in train for own in objects for label in {o.label for o in own}]  # fmt: skip
    targets = targets_of(
        [[Annotation.of("cat", rectangle(SIZE, 0, 0, 2, 2)), Annotation.of("ufo", rectangle(SIZE, 0, 0, 2, 2))]]
    )
    scores = mean.scores(targets)
    torch.testing.assert_close(scores[0], torch.stack([m for label, m in units if label == "cat"]).mean(0))
    torch.testing.assert_close(scores[1], torch.stack([m for _, m in units]).mean(0))


def test_attention_is_summed_over_layers_and_read_at_the_nouns_tokens():
    generator = torch.Generator().manual_seed(0)
    fine, coarse = torch.rand(2, 3, 64, 6, generator=generator), torch.rand(2, 4, 16, 6, generator=generator)
    maps = attention_maps([(fine, (8, 8)), (coarse, (4, 4))], (8, 8), "nearest")
    assert maps.shape == (2, 6, 8, 8)
    big = fine.mean(1)[1, :, 4].reshape(8, 8) + upsampled(coarse.mean(1)[1, :, 4].reshape(4, 4), (8, 8))
    torch.testing.assert_close(maps[1, 4], big)
    assert attention_maps([(coarse, (4, 4))], (8, 8)).min() >= 0
    whole = torch.ones(8, 8, dtype=torch.bool)
    targets = targets_of([[Annotation.of("cat", whole)], [Annotation.of("dog", whole)]])
    raw = attention_scores(maps, targets, [[1, 2], []], normalise=False)
    torch.testing.assert_close(raw[0], (maps[0, 1] + maps[0, 2]) / 2)
    assert not raw[1].any()
    unit = attention_scores(maps, targets, [[1, 2], [3]])
    assert unit.amin((1, 2)).tolist() == [0, 0] and unit.amax((1, 2)).tolist() == [1, 1]
    with pytest.raises(SparsightError, match="2 nouns need as many lists"):
        attention_scores(maps, targets, [[1]])
    with pytest.raises(SparsightError, match=r"attention must be \(B, heads, 16 positions, words\) on 4x4"):
        attention_maps([(fine, (4, 4))], (8, 8))
    with pytest.raises(SparsightError, match="no attention"):
        attention_maps([], (8, 8))


def test_a_nouns_tokens_are_found_in_its_prompt():
    words = "<s> a red car and hot dogs </s>".split()  # noqa: SIM905
    known = {word: i for i, word in enumerate([*words, "dog"])}

    def tokenizer(text, add_special_tokens=True):
        ids = [known.get(word, -1) for word in text.split()]
        return {"input_ids": [0, *ids, 7] if add_special_tokens else ids}

    prompt = "a red car and hot dogs"
    assert token_places(tokenizer, prompt, "red car") == [2, 3] and token_places(tokenizer, prompt, "hot dog") == [5, 6]
    assert token_places(tokenizer, prompt, "red dog") == [] and token_places(tokenizer, prompt, "") == []


def test_pca_splits_components_by_sign_and_keeps_the_largest():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(500, 6, generator=generator) @ torch.randn(6, 6, generator=generator) + 3
    for whiten in (True, False):
        coder = PcaCoder.fit([x[:200].reshape(10, 20, 6), x[200:]], components=4, k=2, whiten=whiten)
        assert coder.latents == 8
        centred = x - x.mean(0)
        _, spread, axes = torch.linalg.svd(centred, full_matrices=False)
        torch.testing.assert_close((coder.axes * axes.T[:, :4]).sum(0).abs(), torch.ones(4), atol=1e-4, rtol=0)
        component = centred @ coder.axes
        if whiten:
            component = component / (spread[:4] / len(x) ** 0.5)
        both = torch.cat([component, -component], 1)
        kept = torch.zeros_like(both).scatter(1, both.topk(2).indices, both.topk(2).values).clamp_min(0)
        torch.testing.assert_close(coder.encode_sparse(x).dense(8), kept, atol=1e-3, rtol=1e-3)
    with pytest.raises(SparsightError, match="1 to 6 components"):
        PcaCoder.fit([x], components=7, k=2)
    with pytest.raises(SparsightError, match="not 0, 2 and 2"):
        PcaCoder.fit([], components=2, k=2)


def test_pca_goes_through_the_dictionary_like_an_sae():
    """Two planted directions, one for each object: PCA's signed latents find them, and the reader reads them back."""
    generator = torch.Generator().manual_seed(0)
    directions, objects, tokens = torch.linalg.qr(torch.randn(8, 2, generator=generator)).Q.T, [], []
    for image in range(40):
        cat, dog = rectangle(SIZE, 0, 5 * (image % 4), 8, 5), rectangle(SIZE, 8, 5 * (image % 5), 8, 5)
        objects.append([Annotation.of("cat", cat), Annotation.of("dog", dog)])
        grid = torch.stack([F.adaptive_avg_pool2d(m[None].float(), GRID)[0] for m in (cat, dog)], -1)
        tokens.append(grid.flatten(0, 1) @ (directions * torch.tensor([[10.0], [6.0]])))
    x = torch.stack(tokens) + 0.01 * torch.randn(40, GRID[0] * GRID[1], 8, generator=generator)
    coder = PcaCoder.fit([x], components=2, k=1, whiten=False)
    code = coder.encode_sparse(x)
    dictionary = build_dictionary([(code, objects)], coder.latents, GRID, TABLE)
    assert dictionary.latents_of("cat") and dictionary.latents_of("dog")
    tally = Tally()
    targets = targets_of(objects)
    tally.add(ConceptReader(dictionary, TABLE).scores(code, targets), targets, range(40))
    assert tally.score(tally.best()).iou.value > 0.9 > 0.3 > float(chance_iou(targets.masks, "shifted").mean())
