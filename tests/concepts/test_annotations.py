"""Annotation of many images into a folder: resumable, strict, nothing lost."""

import json

import pytest
import torch

from sparsight.concepts.annotation import Annotation
from sparsight.concepts.annotations import Annotations, annotate_images
from sparsight.concepts.annotators import TrueMasks
from sparsight.errors import SparsightError

SIZE = (6, 7)  # 42 pixels: the last byte of a mask is not full


class Source:
    name = "source"

    def __len__(self):
        return 20

    def batch(self, numbers):
        return torch.zeros(len(numbers), 3, *SIZE)


def objects(number):
    generator = torch.Generator().manual_seed(number)
    masks = torch.rand(number % 3, *SIZE, generator=generator) < 0.5
    return [Annotation.of(f"thing {i}", mask, 0.25 + i / 8) for i, mask in enumerate(masks)]


class Counting(TrueMasks):
    def __init__(self, stop=10**9):
        super().__init__(objects)
        self.seen, self.stop = [], stop

    def annotate(self, images, captions=None, numbers=None):
        if len(self.seen) + len(numbers) > self.stop:
            raise KeyboardInterrupt
        self.seen += numbers
        return super().annotate(images, captions, numbers)


def same(found, expected):
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert (a.label, a.box, a.score) == (b.label, b.box, b.score) and torch.equal(a.mask, b.mask)


def test_what_was_annotated_is_read_again(tmp_path):
    numbers = [4, 3, 8, 11, 0, 5, 7]
    heard = []
    made = annotate_images(
        TrueMasks(objects), Source(), tmp_path, numbers=numbers, unit=3, progress=lambda *a: heard.append(a)
    )
    assert heard == [(3, 7), (6, 7), (7, 7)]
    for read in (made, Annotations(tmp_path)):
        assert len(read) == 7 and read.size == SIZE and read.annotator == "true masks"
        assert [number for number, _ in read] == numbers
        for number, found in read:
            same(found, objects(number))
    batches = list(made.batches(2))
    assert [n for n, _ in batches] == [[4, 3], [8, 11], [0, 5], [7]]
    same(batches[1][1][1], objects(11))


def test_an_interrupted_annotation_keeps_its_work_and_goes_on(tmp_path):
    stopped = Counting(stop=8)
    with pytest.raises(KeyboardInterrupt):
        annotate_images(stopped, Source(), tmp_path, unit=4)
    assert stopped.seen == list(range(8))
    with pytest.raises(SparsightError, match="is not finished: 3 of its units are missing"):
        Annotations(tmp_path)
    (tmp_path / ".unit-00002.json.abc.part").write_text("half")
    rest = Counting()
    whole = annotate_images(rest, Source(), tmp_path, unit=4)
    assert rest.seen == list(range(8, 20)) and not list(tmp_path.glob("*.part")) and not list(tmp_path.glob(".*.part"))
    for number, found in whole:
        same(found, objects(number))


def test_masks_without_their_words_are_written_again(tmp_path):
    annotate_images(TrueMasks(objects), Source(), tmp_path, unit=10)
    (tmp_path / "unit-00001.json").unlink()  # killed between the two files
    again = Counting()
    annotate_images(again, Source(), tmp_path, unit=10)
    assert again.seen == list(range(10, 20))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"annotator": TrueMasks(objects, "other")}, "other annotator: 'true masks', not 'other'"),
        ({"unit": 5}, "other unit: 4, not 5"),
        ({"numbers": range(3)}, "other images; choose another folder"),
    ],
)
def test_a_folder_is_not_mixed(tmp_path, change, sentence):
    asked = {"annotator": TrueMasks(objects), "images": Source(), "folder": tmp_path, "unit": 4}
    annotate_images(**asked)
    with pytest.raises(SparsightError, match=sentence):
        annotate_images(**(asked | change))


def test_damage_is_named(tmp_path):
    annotate_images(TrueMasks(objects), Source(), tmp_path, unit=10)
    tensors, words = tmp_path / "unit-00001.safetensors", tmp_path / "unit-00001.json"
    whole, text = tensors.read_bytes(), words.read_text()
    tensors.write_bytes(whole[:-1])
    with pytest.raises(SparsightError, match=r"unit-00001.safetensors is damaged"):
        list(Annotations(tmp_path))
    tensors.unlink()
    with pytest.raises(SparsightError, match=r"unit-00001.json is damaged: .*delete it"):
        list(Annotations(tmp_path))
    tensors.write_bytes(whole)
    extra = {"label": "x", "box": [0, 0, 1, 1], "score": 1}
    changes = (
        lambda rows: rows[1]["objects"].append(extra),
        lambda rows: rows[0].pop("objects"),
        lambda rows: rows.pop(),
    )
    for change in changes:
        broken = json.loads(text)
        change(broken["images"])
        words.write_text(json.dumps(broken))
        with pytest.raises(SparsightError, match=r"unit-00001.json is (damaged|of other images)"):
            list(Annotations(tmp_path))
    words.write_text(text)
    (tmp_path / "annotations.json").write_text("[]")
    with pytest.raises(SparsightError, match="is not an annotation of schema 1"):
        Annotations(tmp_path)
    with pytest.raises(SparsightError, match="does not exist"):
        Annotations(tmp_path / "nowhere")


def test_nothing_to_annotate_is_refused(tmp_path):
    with pytest.raises(SparsightError, match="an image at least"):
        annotate_images(TrueMasks(objects), Source(), tmp_path, numbers=[])
    with pytest.raises(SparsightError, match="20 images need as many captions, not 1"):
        annotate_images(TrueMasks(objects), Source(), tmp_path, captions=["a"])


def test_an_annotator_that_skips_images_is_refused(tmp_path):
    class Short(TrueMasks):
        def annotate(self, images, captions=None, numbers=None):
            return []

    with pytest.raises(SparsightError, match="0 lists of objects for 20 images"):
        annotate_images(Short(objects), Source(), tmp_path)
