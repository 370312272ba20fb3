"""Annotators: the parts with transformers' own classes (tiny and random), and the logic around them."""

import sys
import types
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSemanticSegmentation

from concepts import tiny_annotators as tiny
from sparsight.concepts.annotation import Annotation, Detection, one_size, united
from sparsight.concepts.annotators import (
    CaptionTagger,
    ClipTagger,
    Florence,
    Grounded,
    GroundingDino,
    Ram,
    Sam,
    Semantic,
    TrueMasks,
    suppress,
)
from sparsight.concepts.annotators.grounding_dino import claimed
from sparsight.errors import SparsightError
from sparsight.worlds import avatars

IMAGES = torch.rand(2, 3, 48, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("annotators")
    labels = ["background", "cat", "dog"]
    return {"dino": tiny.grounding_dino(root / "dino"), "sam": tiny.sam(root / "sam"),
            "florence": tiny.florence(root / "florence"), "segformer": tiny.segformer(root / "segformer", labels)}  # fmt: skip


def square(top, left, side, size=(16, 16)):
    mask = torch.zeros(size, dtype=torch.bool)
    mask[top : top + side, left : left + side] = True
    return mask


def test_an_annotation_has_the_smallest_box_and_refuses_what_is_no_mask():
    found = Annotation.of("cat", square(2, 5, 3))
    assert found.box == (5, 2, 8, 5) and found.score == 1
    assert Annotation.of("cat", torch.zeros(4, 4, dtype=torch.bool)).box == (0, 0, 0, 0)
    with pytest.raises(SparsightError, match=r"mask of 'cat' must be bool \(H, W\)"):
        Annotation.of("cat", torch.zeros(4, 4))
    with pytest.raises(SparsightError, match="not blank"):
        Annotation.of(" ", square(0, 0, 1))


def test_masks_of_one_label_are_united_and_sizes_must_agree():
    objects = [Annotation.of("cat", square(0, 0, 2)), Annotation.of("dog", square(9, 9, 2))]
    objects.append(Annotation.of("cat", square(5, 5, 2)))
    assert torch.equal(united(objects)["cat"], square(0, 0, 2) | square(5, 5, 2))
    assert one_size([objects, []]) == (16, 16) and one_size([[]]) is None
    with pytest.raises(SparsightError, match="16x16, 20x20 pixels"):
        one_size([objects, [Annotation.of("cat", square(0, 0, 2, (20, 20)))]])


def test_grounding_dino_looks_for_each_images_own_tags(folders):
    detector = GroundingDino(folders["dino"], box=0.2, text=0.1)
    both = detector.detect(IMAGES, [["cat", "Red car."], []])
    assert both[0] and not both[1]
    assert {hit.label for hit in both[0]} <= {"cat", "red car"}
    for hit in both[0]:
        assert 0 <= hit.box[0] < hit.box[2] <= 64 and 0 <= hit.box[1] < hit.box[3] <= 48 and hit.score > 0.2
    strict = GroundingDino(folders["dino"], box=0.95)
    assert len(strict.detect(IMAGES[:1], [["cat", "red car"]])[0]) < len(both[0])


def test_tags_that_do_not_fit_into_one_text_are_looked_for_in_passes(folders, tmp_path):
    detector = GroundingDino(tiny.grounding_dino(tmp_path / "short", text_length=8), box=0.0)
    assert list(detector._groups(["cat", "dog", "red car", "tree"])) == [["cat", "dog"], ["red car", "tree"]]
    labels = {hit.label for hit in detector.detect(IMAGES[:1], [["cat", "dog", "red car", "tree"]])[0]}
    assert labels & {"cat", "dog"} and labels & {"red car", "tree"}


def test_a_phrase_is_claimed_by_the_longest_tag_in_it():
    assert claimed("red car", ["car", "red car"]) == "red car"
    assert claimed("car", ["cat", "red car"]) == "red car"
    assert claimed("cat dog", ["dog"]) == "dog"
    assert claimed("scar", ["car"]) is None and claimed("", ["car"]) is None


def test_sam_gives_a_mask_a_box(folders):
    masks = Sam(folders["sam"]).segment(IMAGES, [[(2, 3, 30, 40), (10, 10, 60, 40)], []])
    assert [tuple(m.shape) for m in masks] == [(2, 48, 64), (0, 48, 64)]
    assert masks[0].dtype == torch.bool and masks[0].any() and not masks[0].all()


def test_the_whole_pipeline_annotates(folders):
    parts = CaptionTagger(tiny.WORDS), GroundingDino(folders["dino"], box=0.3), Sam(folders["sam"])
    annotator = Grounded(*parts, nms=0.5)
    assert "SAM" in annotator.name and "NMS 0.5" in annotator.name
    found = annotator.annotate(IMAGES, ["two cats", "nothing"])
    assert found[0] and not found[1] and {o.label for o in found[0]} <= {"cat", "two"}
    assert all(o.mask.shape == (48, 64) for o in found[0])
    scores = [o.score for o in found[0]]
    assert scores == sorted(scores, reverse=True)
    with pytest.raises(SparsightError, match="NMS threshold"):
        Grounded(*parts, nms=5)


def test_nms_keeps_the_best_of_each_heap():
    boxes = torch.tensor([[0, 0, 10, 10], [1, 0, 11, 10], [0, 0, 10, 5], [20, 20, 30, 30.0]])
    scores = torch.tensor([0.5, 0.9, 0.8, 0.1])
    # IoU of 0 and 1 is 90 / 110, of 0 and 2 exactly 0.5, of 1 and 2 is 45 / 105.
    assert suppress(boxes, scores, 0.5) == [1, 2, 3]
    assert suppress(boxes, scores, 0.4) == [1, 3]
    assert suppress(boxes, scores, 0.95) == [1, 2, 0, 3]
    assert suppress(boxes, scores, 0.4, torch.tensor([0, 1, 1, 1])) == [1, 0, 3]


def test_equal_boxes_of_two_labels_compete_unless_told_otherwise():
    class Two:
        def tags(self, images, captions=None):
            return [["a", "b"]]

        def detect(self, images, tags):
            return [[Detection("a", (0, 0, 8, 8), 0.9), Detection("b", (0, 0, 8, 8), 0.8)]]

        def segment(self, images, boxes):
            return [torch.ones(len(own), 48, 64, dtype=torch.bool) for own in boxes]

    assert [o.label for o in Grounded(Two(), Two(), Two()).annotate(IMAGES[:1])[0]] == ["a"]
    assert [o.label for o in Grounded(Two(), Two(), Two(), per_label=True).annotate(IMAGES[:1])[0]] == ["a", "b"]


def test_a_segmentation_model_annotates_with_its_argmax(folders):
    annotator = Semantic(folders["segformer"])
    model = AutoModelForSemanticSegmentation.from_pretrained(folders["segformer"]).eval()
    probabilities = annotator.probabilities(IMAGES)
    assert probabilities.shape == (2, 3, 48, 64)
    winner = probabilities.argmax(1)
    names = model.config.id2label
    for image, objects in enumerate(annotator.annotate(IMAGES)):
        expected = {names[i] for i in winner[image].unique().tolist()} - {"background"}
        assert {o.label for o in objects} == expected
        for o in objects:
            assert torch.equal(o.mask, winner[image] == next(k for k, v in names.items() if v == o.label))
            assert o.box == Annotation.of(o.label, o.mask).box and 1 / 3 < o.score <= 1
    with torch.no_grad():  # the same through the model alone: 64 x 64 pixels normalised, as its processor says
        pixels = torch.nn.functional.interpolate(IMAGES, (64, 64), mode="bilinear", antialias=True)
        mean, std = (
            torch.tensor(v)[:, None, None] for v in (annotator.processor.image_mean, annotator.processor.image_std)
        )
        logits = model(((pixels + 1) / 2 - mean) / std).logits
    again = torch.nn.functional.interpolate(logits, (48, 64), mode="bilinear").softmax(1)
    torch.testing.assert_close(probabilities, again, atol=0.02, rtol=0)


def test_pieces_of_a_label_are_objects_of_their_own(folders, monkeypatch):
    annotator = Semantic(folders["segformer"], pieces=True, least=5)
    wins = torch.zeros(1, 16, 16, dtype=torch.int64)
    for mask, label in ((square(0, 0, 3), 1), (square(8, 8, 4), 1), (square(14, 0, 2), 2)):
        wins[0][mask] = label
    onehot = torch.nn.functional.one_hot(wins, 3).permute(0, 3, 1, 2).float()
    monkeypatch.setattr(annotator, "probabilities", lambda images: onehot)
    (found,) = annotator.annotate(IMAGES[:1])
    assert [(o.label, int(o.mask.sum())) for o in found] == [("cat", 9), ("cat", 16)]  # the dog has 4 pixels only


def test_true_masks_are_looked_up_by_number():
    truth = {3: [Annotation.of("cat", square(1, 1, 4))], 5: []}
    annotator = TrueMasks(truth.__getitem__, "renderer")
    images = torch.zeros(2, 3, 16, 16)
    found = annotator.annotate(images, numbers=[5, 3])
    assert found[0] == [] and found[1][0] is truth[3][0]
    with pytest.raises(SparsightError, match="every image needs its number"):
        annotator.annotate(images)
    with pytest.raises(SparsightError, match="true masks are 16x16, but the images 20x20"):
        annotator.annotate(torch.zeros(1, 3, 20, 20), numbers=[3])


def test_clip_tags_with_the_nouns_that_fit_best():
    folder = Path(avatars.__file__).parent / "weights" / "clip"
    tagger = ClipTagger(folder, ["beard", "hat", "sunglasses", "smile"], most=2, least=0.0, template="person with a {}")
    images = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    probabilities = tagger.probabilities(images)
    torch.testing.assert_close(probabilities.sum(1), torch.ones(3))
    for tags, row in zip(tagger.tags(images), probabilities, strict=True):
        assert tags == [tagger.vocabulary[i] for i in row.argsort(descending=True)[:2]]
    assert ClipTagger(folder, ["hat", "beard"], least=1.1).tags(images) == [[], [], []]
    with pytest.raises(SparsightError, match="needs a vocabulary"):
        ClipTagger(folder, [])


def test_captions_tag_by_what_they_name():
    tagger = CaptionTagger(["cat", "car", "hot dog", "dog"])
    assert tagger.tags(IMAGES, ["Two cats and a hot-dog", "a hot dog by a car"]) == [
        ["cat", "hot dog"],
        ["hot dog", "car"],
    ]
    with pytest.raises(SparsightError, match="one caption for each image"):
        tagger.tags(IMAGES)


def test_florence_tags_with_the_labels_of_its_answer(folders):
    tagger = Florence(folders["florence"], tokens=8, beams=1)
    assert len(tagger.tags(IMAGES)) == 2
    words = [
        "</s>",
        "cat",
        "<loc_1>",
        "<loc_2>",
        "<loc_300>",
        "<loc_400>",
        "dog",
        *["<loc_7>"] * 4,
        "cat",
        *["<loc_9>"] * 4,
    ]
    answer = torch.tensor(tagger.processor.tokenizer.convert_tokens_to_ids(words))
    assert tagger._labels(answer, (64, 48)) == ["cat", "dog"]
    with pytest.raises(SparsightError, match="unknown Florence-2 task"):
        Florence(folders["florence"], task="<CAPTION>")


def test_ram_is_asked_where_it_is_installed_and_missed_in_one_sentence(tmp_path, monkeypatch):
    with pytest.raises(SparsightError, match=r"RAM is on no package registry: install its module.*ClipTagger"):
        Ram(tmp_path / "ram.pth")

    class Fake(torch.nn.Module):
        def generate_tag(self, images):
            return [f"cat | red car | {tuple(row.shape)}" for row in images], ["", ""]

    ram, models = types.ModuleType("ram"), types.ModuleType("ram.models")
    ram.get_transform = lambda image_size: lambda picture: torch.zeros(3, image_size, image_size)
    models.ram = models.ram_plus = lambda pretrained, image_size, vit: Fake()
    monkeypatch.setitem(sys.modules, "ram", ram)
    monkeypatch.setitem(sys.modules, "ram.models", models)
    with pytest.raises(SparsightError, match=r"weights .* are not there"):
        Ram(tmp_path / "ram.pth")
    (tmp_path / "ram.pth").write_bytes(b"")
    assert Ram(tmp_path / "ram.pth", size=8).tags(IMAGES) == [["cat", "red car", "(3, 8, 8)"]] * 2
    with pytest.raises(SparsightError, match="unknown RAM model"):
        Ram(tmp_path / "ram.pth", model="ram2")


@pytest.mark.parametrize("part", [GroundingDino, Sam, Florence, Semantic, ClipTagger])
def test_a_missing_or_damaged_model_is_one_sentence(part, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(
        SparsightError, match=r"cannot be loaded from '.*nowhere' \(a local folder or a Hub id\): there is no such"
    ):
        part(tmp_path / "nowhere")


def test_a_model_without_weights_is_one_sentence(folders, tmp_path):
    tiny.sam(tmp_path / "sam")
    (tmp_path / "sam" / "model.safetensors").unlink()
    with pytest.raises(SparsightError, match="the SAM segmenter cannot be loaded from"):
        Sam(tmp_path / "sam")
    tiny.sam(tmp_path / "broken")
    (tmp_path / "broken" / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(SparsightError, match="the SAM segmenter cannot be loaded from"):
        Sam(tmp_path / "broken")


def test_images_of_another_shape_are_refused(folders):
    with pytest.raises(SparsightError, match=r"needs images \(B, 3, H, W\)"):
        Sam(folders["sam"]).segment(torch.zeros(2, 1, 8, 8), [[], []])
