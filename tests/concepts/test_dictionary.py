"""The concept dictionary against loops over images, latents and objects, and against planted answers."""

import json
from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from concepts.planted import LABELS, code_of, iou, random_case, rectangle, upsampled
from concepts.test_words import Table
from sparsight.cli import app
from sparsight.concepts import (
    Annotation,
    ConceptDictionary,
    DictionaryBuilder,
    DictionaryConfig,
    build_dictionary,
    largest_activations,
    open_words,
)
from sparsight.concepts.maps import areas, cells, maps_of
from sparsight.errors import SparsightError

GRID, SIZE = (4, 5), (16, 25)
TABLE = Table({"cat": [1.0, 0.0], "dog": [0.0, 1.0], "car": [-1.0, 0.0], "red": [0.0, -1.0]})  # no tree


def normalised(maps, how, everything):
    if how == "none":
        return maps
    if how == "global":
        return maps / everything.amax((0, 2, 3))[:, None, None]
    low = maps.amin((1, 2), keepdim=True) if how == "minmax" else 0
    return ((maps - low) / (maps.amax((1, 2), keepdim=True) - low)).nan_to_num(0)


def slowly(maps, objects, config):
    counts, seen = Counter(), Counter()
    for image, own in enumerate(objects):
        level = normalised(maps[image], config.normaliser, maps)
        if config.unite:
            names = {o.label for o in own}
            own = [(n, torch.stack([o.mask for o in own if o.label == n]).any(0)) for n in names]
        else:
            own = [(o.label, o.mask) for o in own]
        for label, mask in own:
            seen[label] += 1
            for latent in range(maps.shape[1]):
                on = (level[latent] > config.threshold) & (maps[image, latent] > 0)
                if config.resize == "nearest":
                    found = iou(upsampled(on, SIZE), mask)
                else:
                    found = iou(on, F.adaptive_avg_pool2d(mask[None].double(), GRID)[0] >= 0.5)
                if found > config.iou:
                    counts[latent, label] += 1
    return counts, seen


def counts_of(dictionary):
    rows = zip(*(column.tolist() for column in dictionary.entries), strict=True)
    return {(latent, dictionary.labels[label]): count for latent, label, count in rows}


def built(maps, objects, config=None, batch=2, words=TABLE, **options):
    batches = ((code_of(maps[i : i + batch]), objects[i : i + batch]) for i in range(0, len(maps), batch))
    return build_dictionary(batches, maps.shape[1], GRID, words, config, **options)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    "config",
    [
        DictionaryConfig(),
        DictionaryConfig(normaliser="max", threshold=0.3),
        DictionaryConfig(normaliser="none", threshold=0.4, iou=0.3),
        DictionaryConfig(normaliser="global", threshold=0.5, iou=0.2),
        DictionaryConfig(resize="grid", iou=0.4),
        DictionaryConfig(unite=True, threshold=0.6, iou=0.1),
    ],
)
def test_counts_are_those_of_loops_over_images_latents_and_objects(seed, config):
    maps, objects = random_case(seed)
    scale = (
        largest_activations([code_of(maps[:4]), code_of(maps[4:])], maps.shape[1])
        if config.normaliser == "global"
        else None
    )
    counts, seen = slowly(maps, objects, config)
    dictionary = built(maps, objects, config, scale=scale)
    assert counts and counts_of(dictionary) == counts
    assert dict(zip(dictionary.labels, dictionary.seen.tolist(), strict=True)) == seen
    assert dictionary.images == len(maps) and len(dictionary) == len({latent for latent, _ in counts})


def test_the_size_of_the_batches_does_not_matter():
    maps, objects = random_case(7)
    one, all_ = built(maps, objects, batch=1), built(maps, objects, batch=99)
    assert counts_of(one) == counts_of(all_)
    for name, tensor in one.statistics.tensors().items():
        torch.testing.assert_close(tensor, all_.statistics.tensors()[name], msg=name)


def test_cells_count_pixels_as_nearest_upsampling_has_them():
    for size, grid in (((16, 25), (4, 5)), ((7, 11), (3, 4)), ((5, 5), (5, 5)), ((64, 64), (8, 8))):
        mask = torch.rand(3, *size) < 0.4
        index = torch.arange(grid[0] * grid[1]).reshape(1, 1, *grid).float()
        place = F.interpolate(index, size, mode="nearest")[0, 0].long()
        slow = [[int((m & (place == p)).sum()) for p in range(grid[0] * grid[1])] for m in mask]
        assert cells(mask, grid).tolist() == slow
        assert areas(size, grid).sum() == size[0] * size[1]


def planted():
    """Latent 0 sits on the cat, 1 on the dog, 2 on both, 3 on the sky, 4 is on everywhere."""
    maps, objects = torch.zeros(3, 5, *GRID), []
    for image in range(3):
        cat, dog = rectangle(SIZE, 0, 0, 8, 10), rectangle(SIZE, 8, 10, 8, 15)
        maps[image, 0, :2, :2] = 3 + image
        maps[image, 1, 2:, 2:] = 2.0
        maps[image, 2] = 0.5 * ((maps[image, 0] + maps[image, 1]) > 0)
        maps[image, 3, 0, 4] = 9.0
        maps[image, 4] = 1.0 + 0.1 * image
        objects.append(
            [Annotation.of("cat", cat), Annotation.of("dog", dog)] + [Annotation.of("tree", cat)] * (image == 2)
        )
    return built(maps, objects)


def test_planted_latents_are_found_by_name():
    dictionary = planted()
    assert dictionary.labels_of(0) == [("cat", 3), ("tree", 1)]
    assert dictionary.labels_of(1) == [("dog", 3)] and dictionary.labels_of(3) == []
    assert dictionary.labels_of(2) == [("dog", 3)]  # IoU 6 / 10 with the dog, 4 / 10 with the cat
    assert dictionary.latents_of("Dog") == [1, 2] and dictionary.latents_of("tree") == [0]
    best = dictionary.find("tree")[0]
    assert (best.latent, best.objects, best.share, best.recall) == (0, 1, 0.25, 1.0)
    assert [hit.latent for hit in dictionary.find("cat")] == [0]


def test_rare_labels_can_be_left_out():
    dictionary = planted()
    assert dictionary.at_least(2).labels_of(0) == [("cat", 3)]
    assert dictionary.at_least(share=0.3).labels_of(0) == [("cat", 3)]
    assert dictionary.at_least(share=0.25).labels_of(0) == [("cat", 3), ("tree", 1)]
    assert len(dictionary.at_least(4)) == 0 and len(dictionary) == 3


def test_entries_can_be_kept_to_some_labels():
    dictionary = planted()
    assert dictionary.only(["tree"]).labels_of(0) == [("tree", 1)]
    assert dictionary.only([]).labels_of(0) == [] and dictionary.only(dictionary.labels).labels_of(0) == [
        ("cat", 3),
        ("tree", 1),
    ]


def test_embeddings_are_means_with_and_without_repeats():
    maps, objects = random_case(1)
    dictionary = built(maps, objects, DictionaryConfig(iou=0.15))
    vectors = {"cat": [1.0, 0.0], "dog": [0.0, 1.0], "car": [-1.0, 0.0], "red car": [-0.5, -0.5]}
    for repeats in (True, False):
        found, has = dictionary.embeddings(repeats)
        for latent in range(dictionary.latents):
            items = [(vectors[n], c if repeats else 1) for n, c in dictionary.labels_of(latent) if n in vectors]
            assert bool(has[latent]) == bool(items)
            total = sum(c for _, c in items) or 1
            mean = [sum(v[i] * c for v, c in items) / total for i in (0, 1)]
            torch.testing.assert_close(found[latent], torch.tensor(mean))
    assert dictionary.embedded.skipped == {"tree": 1} and len({tuple(dictionary.labels_of(i)) for i in range(9)}) > 3


def test_a_word_matches_labels_of_several_words_if_asked():
    mask = rectangle(SIZE, 0, 0, 8, 10)
    maps = torch.zeros(1, 2, *GRID)
    maps[0, 1, :2, :2] = 1
    dictionary = built(maps, [[Annotation.of("red car", mask), Annotation.of("cars", mask)]])
    assert dictionary.latents_of("car", match="word") == [1] and dictionary.find("car", match="word")[0].objects == 2
    assert dictionary.latents_of("red car") == [1]
    with pytest.raises(SparsightError, match="unknown match of labels"):
        dictionary.find("car", match="part")


def test_a_word_in_no_entry_is_refused_with_the_nearest():
    dictionary = planted()
    with pytest.raises(SparsightError, match=r"'car' is in no entry.*nearest labels: dog \(0.00\), cat \(-1.00\)"):
        dictionary.find("car", source=TABLE)
    with pytest.raises(SparsightError, match=r"unknown word in the concept dictionary 'dgo': did you mean 'dog'\?"):
        dictionary.find("dgo", source=TABLE)
    with pytest.raises(SparsightError, match="unknown word in the concept dictionary 'car'"):
        dictionary.find("car")  # the vectors "table" cannot be opened by name
    with pytest.raises(SparsightError, match="'tree' was annotated 1 times, but is in no entry"):
        dictionary.at_least(3).with_words(open_words()).find("tree")
    real = dictionary.with_words(open_words())
    with pytest.raises(SparsightError, match=r"'kitten' is in no entry .* nearest labels: cat \(0.5"):
        real.find("kitten")
    with pytest.raises(SparsightError, match="latent 5 does not exist: the SAE has latents 0 to 4"):
        dictionary.labels_of(5)
    with pytest.raises(SparsightError, match="made with the word vectors table, not wordllama"):
        dictionary.require_words(open_words())


def test_a_dictionary_of_another_stage_is_refused():
    maps, objects = random_case(0)
    dictionary = built(maps, objects, extra={"site": "mid_block", "t": 981})
    dictionary.require(site="mid_block", t=981)
    with pytest.raises(SparsightError, match="the dictionary is of t 981, not 501"):
        dictionary.require(site="mid_block", t=501)
    with pytest.raises(SparsightError, match="of conditioning None, not 'cond'"):
        dictionary.require(conditioning="cond")


def test_a_label_of_the_whole_image_is_met_by_uniform_maps():
    maps = torch.zeros(2, 3, *GRID)
    maps[:, 0, 1, 1] = 1
    maps[0, 1] = 1 + torch.rand(GRID, generator=torch.Generator().manual_seed(0))
    styles = [[Annotation.whole(name, SIZE)] for name in ("pencil", "pixel")]
    assert built(maps, styles, DictionaryConfig(normaliser="max")).find("pencil")[0].latent == 1


def test_bad_codes_and_masks_are_refused():
    maps, objects = random_case(0)
    builder = DictionaryBuilder(9, GRID)
    with pytest.raises(SparsightError, match="the codes hold 120 tokens, but 2 images on a grid of 4x5 have 40"):
        builder.add(code_of(maps), objects[:2])
    with pytest.raises(SparsightError, match="the codes name latent 8, but the SAE has 5"):
        DictionaryBuilder(5, GRID).add(code_of(maps), objects)
    small = Annotation.of("cat", torch.ones(3, 5, dtype=torch.bool))
    with pytest.raises(SparsightError, match="masks of 3x5 pixels are smaller than the grid of 4x5"):
        builder.add(code_of(maps[:1]), [[small]])
    with pytest.raises(SparsightError, match="masks of a batch must have one size"):
        builder.add(code_of(maps[:2]), [[small], [Annotation.of("cat", torch.ones(SIZE, dtype=torch.bool))]])
    assert builder.images == 0
    for bad in ({"normaliser": "mean"}, {"resize": "bicubic"}, {"iou": 1.0}, {"threshold": -1}):
        with pytest.raises(SparsightError):
            DictionaryConfig(**bad)
    with pytest.raises(SparsightError, match='goes with the normaliser "global"'):
        DictionaryBuilder(9, GRID, DictionaryConfig(normaliser="global"))


def test_batches_without_objects_or_codes_are_fine():
    maps, objects = random_case(0)
    builder = DictionaryBuilder(9, GRID)
    builder.add(code_of(maps), [[] for _ in maps])
    builder.add(code_of(torch.zeros(2, 9, *GRID)), objects[:2])
    dictionary = builder.finish(TABLE)
    assert len(dictionary) == 0 and dictionary.images == 8
    with pytest.raises(SparsightError, match="unknown word in the concept dictionary"):
        dictionary.find("cat")


def test_statistics_are_those_of_dense_maps():
    maps, objects = random_case(3, images=40)
    statistics = built(maps, objects, batch=7).statistics
    active = (maps > 0).any(-1).any(-1)
    torch.testing.assert_close(statistics.mean_activation(), maps.mean((0, 2, 3)))
    torch.testing.assert_close(statistics.variance(), maps.var(0, correction=0).mean((1, 2)))
    relative = maps.var(0, correction=0).mean((1, 2)) / maps.square().mean((0, 2, 3)).clamp_min(1e-30)
    torch.testing.assert_close(statistics.variance(relative=True), relative)
    for latent in range(9):
        own = maps[active[:, latent], latent]
        even = (own.mean((1, 2)) / own.amax((1, 2))).mean() if len(own) else torch.tensor(0.0)
        torch.testing.assert_close(statistics.uniformity()[latent], even)
        covered = (own > 0).float().mean() if len(own) else torch.tensor(0.0)
        torch.testing.assert_close(statistics.uniformity("coverage")[latent], covered)
        gamma = maps[:, latent].mean((1, 2))
        expected = [i for i in gamma.argsort(descending=True, stable=True).tolist() if gamma[i] > 0][:16]
        if latent:  # all images of latent 0 are equal
            assert statistics.top_images(latent) == expected
    assert len(set(statistics.top_images(0))) == 16


def test_styles_and_context_free_latents_are_found():
    maps = torch.zeros(20, 4, *GRID)
    generator = torch.Generator().manual_seed(0)
    maps[::2, 0] = 1 + 0.1 * torch.rand(10, *GRID, generator=generator)  # a style: everywhere, in half of the images
    maps[:, 1, 0, 0] = 5.0  # a corner, whatever the image
    maps[:, 2] = torch.rand(20, *GRID, generator=generator) * (torch.rand(20, *GRID, generator=generator) < 0.3)
    statistics = built(maps, [[] for _ in maps]).statistics
    assert statistics.style_latents(1) == [0] and statistics.style_latents(9, measure="coverage")[0] == 0
    assert statistics.context_free(1) == [1] and statistics.context_free(1, relative=True) == [1]
    assert 3 not in statistics.style_latents(9) + statistics.context_free(9, share=0)  # it is dead
    assert set(statistics.style_latents(9, share=0.9)) == {1, 2}  # the style fires in half of the images only
    with pytest.raises(SparsightError, match="unknown measure of uniformity"):
        statistics.uniformity("flat")
    with pytest.raises(SparsightError, match="a share of images in"):
        statistics.style_latents(share=2)


def test_a_cell_exactly_at_the_threshold_is_off():
    maps = torch.zeros(1, 1, *GRID)
    maps[0, 0, 0, :2] = torch.tensor([2.0, 1.0])
    own = [[Annotation.of("cat", rectangle(SIZE, 0, 0, 4, 5))]]
    assert len(built(maps, own, DictionaryConfig(threshold=0.5, iou=0.5))) == 1
    assert len(built(maps, own, DictionaryConfig(threshold=0.4, iou=0.5))) == 0  # both cells: IoU 1 / 2 is not above


def test_no_dense_tensor_is_made():
    """A million latents: a dense map would take 4 MB a token."""
    code = code_of(torch.rand(1, 3, *GRID))
    wide = code._replace(indices=code.indices * 499_999)
    maps = maps_of(wide, 1, GRID)
    assert maps.latent.tolist() == [0, 499_999, 999_998]


def same(a, b):
    assert (a.latents, a.grid, a.labels, a.words, a.images, a.config, dict(a.extra)) == (
        b.latents, b.grid, b.labels, b.words, b.images, b.config, dict(b.extra))  # fmt: skip
    assert counts_of(a) == counts_of(b) and torch.equal(a.seen, b.seen) and a.embedded.skipped == b.embedded.skipped
    assert torch.equal(a.embedded.vectors, b.embedded.vectors) and torch.equal(a.embedded.known, b.embedded.known)


def test_a_dictionary_survives_its_folder(tmp_path):
    maps, objects = random_case(2)
    dictionary = built(maps, objects, extra={"site": "mid_block", "t": 500})
    dictionary.save(tmp_path)
    read = ConceptDictionary.load(tmp_path)
    same(read, dictionary)
    for name, tensor in dictionary.statistics.tensors().items():
        assert torch.equal(tensor, read.statistics.tensors()[name])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["dictionary.json", "dictionary.safetensors"]
    DictionaryBuilder(3, GRID).finish(TABLE).save(tmp_path)  # over the old one, and without any label
    assert ConceptDictionary.load(tmp_path).labels == ()


def test_damage_is_refused(tmp_path):
    maps, objects = random_case(2)
    built(maps, objects).save(tmp_path)
    words, tensors = tmp_path / "dictionary.json", tmp_path / "dictionary.safetensors"
    text, whole = words.read_text(), tensors.read_bytes()
    tensors.write_bytes(whole[:-9])
    with pytest.raises(
        SparsightError, match=r"dictionary.safetensors is damaged, or belongs to another dictionary.json"
    ):
        ConceptDictionary.load(tmp_path)
    tensors.unlink()
    with pytest.raises(SparsightError, match="is damaged"):
        ConceptDictionary.load(tmp_path)
    tensors.write_bytes(whole)
    for key in ("labels", "grid", "config", "words", "latents"):
        words.write_text(json.dumps({k: v for k, v in json.loads(text).items() if k != key}))
        with pytest.raises(SparsightError, match="is damaged"):
            ConceptDictionary.load(tmp_path)
    for change in ({"labels": ["one"]}, {"latents": 2}, {"grid": [2, 2]}):
        words.write_text(json.dumps(json.loads(text) | change))
        with pytest.raises(SparsightError, match="contradicts itself"):
            ConceptDictionary.load(tmp_path)
    words.write_text(json.dumps(json.loads(text) | {"schema_version": 9}))
    with pytest.raises(SparsightError, match="is not a concept dictionary of schema 1"):
        ConceptDictionary.load(tmp_path)
    words.write_text("{")
    with pytest.raises(SparsightError, match="is not readable JSON"):
        ConceptDictionary.load(tmp_path)
    with pytest.raises(SparsightError, match="does not exist"):
        ConceptDictionary.load(tmp_path / "nowhere")


def test_a_forged_count_is_refused(tmp_path):
    import hashlib

    maps, objects = random_case(2)
    built(maps, objects).save(tmp_path)
    words, tensors = tmp_path / "dictionary.json", tmp_path / "dictionary.safetensors"
    content = load_file(tensors)
    content["label"] = content["label"] + 100
    save_file(content, tensors)
    found = json.loads(words.read_text()) | {"tensors_sha256": hashlib.sha256(tensors.read_bytes()).hexdigest()}
    words.write_text(json.dumps(found))
    with pytest.raises(SparsightError, match="contradicts itself"):
        ConceptDictionary.load(tmp_path)


def call(*arguments):
    return CliRunner().invoke(app, ["concepts", *map(str, arguments)], env={"COLUMNS": "200", "TERM": "dumb"})


def test_the_command_line_finds_and_shows(tmp_path):
    planted().with_words(open_words()).save(tmp_path / "dictionaries" / "mid_block-cond-early")
    maps, objects = random_case(2)
    built(maps, objects, words=open_words()).save(tmp_path / "dictionaries" / "up_block-cond-early")
    found = call("find", tmp_path, "dog")
    assert found.exit_code == 0, found.output
    assert "mid_block-cond-early" in found.output and "dog 3" in found.output and "100%" in found.output
    summary = call("show", tmp_path).output
    assert "3 of 5" in summary and "cat 3" in summary
    entry = call("show", tmp_path / "dictionaries" / "mid_block-cond-early", 0).output
    assert "cat 3, tree 1" in entry and "2, 1, 0" in entry
    assert "1.00" in call("show", tmp_path / "dictionaries" / "mid_block-cond-early", "--styles", "-n", 1).output


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [(("find", "kitten"), r"nearest labels: cat \(0.5"), (("show", 99), "latent 99 does not exist")],
)
def test_a_mistake_on_the_command_line_is_one_sentence(tmp_path, arguments, sentence):
    planted().with_words(open_words()).save(tmp_path)
    result = call(arguments[0], tmp_path, arguments[1])
    assert isinstance(result.exception, SparsightError)
    with pytest.raises(SparsightError, match=sentence):
        raise result.exception
    empty = call(arguments[0], tmp_path / "empty", arguments[1])
    assert isinstance(empty.exception, SparsightError) and "holds no concept dictionary" in str(empty.exception)


def test_every_label_of_the_cases_occurs():
    assert {o.label for seed in range(4) for own in random_case(seed)[1] for o in own} == set(LABELS)
