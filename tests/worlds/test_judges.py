"""The shipped judges know the faces, and are not swayed by what nobody can see."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open

import sparsight.worlds.avatars as avatars
from sparsight.errors import SparsightError
from sparsight.worlds.augment import augment
from sparsight.worlds.avatars.captions import TEXT_PAIRS, ZERO_SHOT
from sparsight.worlds.avatars.data import FaceData, identity, render_faces, to_pixels, to_tensor
from sparsight.worlds.avatars.faces import ATTRIBUTES, counterfactual, sample_face
from sparsight.worlds.avatars.judge_clip import train_clip
from sparsight.worlds.avatars.judge_clip_model import begin_as_classifier, build_clip, build_tokenizer
from sparsight.worlds.avatars.judge_models import ConvNet
from sparsight.worlds.avatars.judges import KINDS, load_classifier, load_classifiers, load_clip, load_identity
from sparsight.worlds.avatars.judges_training import Mixture, train_classifier, train_identity
from sparsight.worlds.avatars.render import render

WEIGHTS = Path(avatars.__file__).parent / "weights"
FLOOR = {"mobilenetv2": (0.96, 0.7)}  # the weakest of the four: narrow, and slow to learn mouths


@pytest.fixture(scope="module")
def held_out() -> FaceData:
    return render_faces(seed=2, count=128)


@pytest.fixture(scope="module")
def classifiers():
    return load_classifiers(WEIGHTS / "classifiers")


@pytest.fixture(scope="module")
def clip():
    return load_clip(WEIGHTS / "clip")


@pytest.fixture(scope="module")
def embedder():
    return load_identity(WEIGHTS / "identity")


def decide(model, images):
    with torch.no_grad():
        return model(images) > 0


def test_pixels_and_tensors_are_each_others_reverse(held_out):
    images = held_out.images(slice(0, 4))
    assert images.shape == (4, 3, 64, 64) and images.abs().max() <= 1
    assert (to_pixels(images) == held_out.pixels[:4]).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_classifier_is_right(classifiers, held_out, kind):
    right = decide(classifiers[kind], held_out.images()) == held_out.labels().bool()
    mean, worst = FLOOR.get(kind, (0.985, 0.9))
    assert right.float().mean() > mean
    assert right.float().mean(0).min() > worst


@pytest.mark.parametrize("kind", KINDS)
def test_imperceptible_changes_sway_no_classifier(classifiers, held_out, kind):
    model, images, truth = classifiers[kind], held_out.images(), held_out.labels()
    before = decide(model, images)
    probe = images.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(F.binary_cross_entropy_with_logits(model(probe), truth), probe)
    fooled = decide(model, (images + 2 / 255 * gradient.sign()).clamp(-1, 1))  # 1/255 of the range, which is 2 wide
    assert (fooled != before).float().mean() < 0.03
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0)) * 4 / 255
    assert (decide(model, (images + noise).clamp(-1, 1)) != before).float().mean() < 0.01


def test_classifiers_agree_and_are_ordinary_folders(classifiers, held_out):
    decisions = torch.stack([decide(classifiers[kind], held_out.images()) for kind in KINDS])
    assert (decisions == decisions[0]).float().mean() > 0.97
    for kind in KINDS:
        folder = WEIGHTS / "classifiers" / kind
        assert json.loads((folder / "config.json").read_text())["model_type"]
        with safe_open(folder / "model.safetensors", "pt") as file:
            assert file.keys()
    assert all(p.dtype == torch.float32 and not p.requires_grad for p in classifiers["resnet"].parameters())


def test_a_classifier_sees_the_edit_of_a_counterfactual(classifiers):
    for attribute in ("Smiling", "Beard", "Eyeglasses"):
        pairs = []
        for index in range(60):
            face = sample_face(8, index)
            other = counterfactual(face, attribute, True)
            if other is not None and other != face:
                pairs.append((render(face), render(other)))
        column = ATTRIBUTES.index(attribute)
        for images, wanted in zip(zip(*pairs, strict=True), (False, True), strict=True):
            given = torch.cat([to_tensor(pixels[None]) for pixels in images])
            assert (decide(classifiers["vgg"], given)[:, column] == wanted).float().mean() > 0.95


def test_vgg_gives_maps_from_fine_to_coarse(classifiers, held_out):
    sides = [found.shape[-1] for found in classifiers["vgg"].features(held_out.images(slice(0, 2)))]
    assert sides == [64, 32, 16, 8, 4]


def test_clip_answers_questions(clip, held_out):
    with torch.no_grad():
        image = clip.image(held_out.images())
    absent = clip.text([ZERO_SHOT[name][0] for name in ATTRIBUTES])
    present = clip.text([ZERO_SHOT[name][1] for name in ATTRIBUTES])
    assert torch.allclose(image.norm(dim=-1), torch.ones(len(image)), atol=1e-5)
    right = (image @ (present - absent).T > 0) == held_out.labels().bool()
    assert right.float().mean() > 0.93


def test_clip_scores_rise_with_the_edit_the_text_names(clip):
    for attribute in ("Smiling", "Beard"):
        base, text = clip.text(list(TEXT_PAIRS[attribute]))
        rises = []
        for index in range(40):
            face = sample_face(8, index)
            other = counterfactual(face, attribute, True)
            if other is not None and other != face:
                with torch.no_grad():
                    before, after = clip.image(torch.cat([to_tensor(render(f)[None]) for f in (face, other)]))
                rises.append((after - before) @ (text - base) > 0)
        assert sum(rises) > 0.9 * len(rises)


def test_clip_is_differentiable_and_takes_any_size(clip):
    images = (torch.rand(2, 3, 96, 80, generator=torch.Generator().manual_seed(0)) * 2 - 1).requires_grad_(True)
    clip.image(images).sum().backward()
    assert images.grad is not None and images.grad.abs().sum() > 0


def test_clip_cuts_off_long_texts_and_reads_at_the_end_token(clip):
    long = clip.text(["a person with a beard " * 30, "person"])
    assert long.shape == (2, 128) and torch.isfinite(long).all()
    assert torch.allclose(clip.text(["person"])[0], long[1], atol=1e-5)  # padding changes nothing


def test_the_tokenizer_is_the_shipped_one(clip):
    text = "a smiling person with long black hair, without a hat"
    assert clip.tokenizer(text)["input_ids"] == build_tokenizer()(text)["input_ids"]
    assert clip.tokenizer.unk_token_id not in clip.tokenizer(text)["input_ids"]


def test_an_image_tower_can_begin_as_the_vit_classifier(classifiers, held_out):
    images = held_out.images()
    model = begin_as_classifier(build_clip(), WEIGHTS / "classifiers" / "vit", images)
    with torch.no_grad():
        logits = classifiers["vit"].model.classifier(model.vision_model(images).pooler_output)
    assert ((logits > 0) == held_out.labels().bool()).float().mean() > 0.85  # all but CLIP's extra norm is the same
    with pytest.raises(SparsightError, match="holds no ViT"):
        begin_as_classifier(build_clip(), WEIGHTS / "clip", images)


def test_identity_tells_persons_apart(embedder, held_out):
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        vectors = embedder(held_out.images())
    assert torch.allclose(vectors.norm(dim=-1), torch.ones(len(vectors)), atol=1e-5)
    twins = [
        next(c for c in (counterfactual(face, name, True), counterfactual(face, name, False)) if c not in (None, face))
        for face in held_out.faces
        for name in ("Smiling",)
    ]
    assert all(identity(a) == identity(b) for a, b in zip(held_out.faces, twins, strict=True))
    with torch.no_grad():
        same = (vectors * embedder(torch.cat([to_tensor(render(twin)[None]) for twin in twins]))).sum(-1)
    other = torch.randperm(len(vectors), generator=generator)
    different = torch.tensor([identity(held_out.faces[i]) != identity(held_out.faces[j]) for i, j in enumerate(other)])
    assert same.mean() > 0.8
    assert (same[:, None] > (vectors * vectors[other]).sum(-1)[different][None]).float().mean() > 0.99


def test_a_missing_judge_is_named(tmp_path):
    for load in (load_classifier, load_identity, load_clip):
        with pytest.raises(SparsightError, match="does not exist"):
            load(tmp_path / "nothing")
        with pytest.raises(SparsightError, match="holds no"):
            load(tmp_path)
    with pytest.raises(SparsightError, match="holds no CLIP"):
        load_clip(_with_processor(tmp_path / "odd"))


def _with_processor(folder: Path) -> Path:
    ConvNet(widths=(4, 4), hidden=4).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text("{}")
    return folder


def test_augmentation_is_mild_and_repeatable(held_out):
    images = held_out.images(slice(0, 16))
    one, two = (augment(images, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(one, two) and one.shape == images.shape
    assert (one - images).abs().mean() < 0.3 and one.abs().max() <= 1


@pytest.mark.parametrize("train", ["classifier", "identity", "clip"])
def test_training_is_repeatable_and_resumes(tmp_path, held_out, train):
    data = Mixture([(held_out, 3.0), (held_out, 1.0)])

    def run(work: str, steps: int = 3):
        where = (tmp_path / work / "out", tmp_path / work)
        if train == "classifier":
            return train_classifier("vgg", data, *where, steps=steps, batch=8)
        trainer = train_identity if train == "identity" else train_clip
        return trainer(data, *where, steps=steps, batch=8)

    first, second = run("a").state_dict(), run("b").state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)
    again = run("a").state_dict()  # finished: nothing is trained, the same judge comes out
    assert all(torch.equal(first[key], again[key]) for key in first)


def test_training_refuses_what_it_cannot_do(tmp_path, held_out):
    with pytest.raises(SparsightError, match="did you mean 'resnet'"):
        train_classifier("resnett", Mixture([(held_out, 1.0)]), tmp_path, tmp_path, steps=1)
    with pytest.raises(SparsightError, match="share above zero"):
        Mixture([(held_out, 0.0)])
    with pytest.raises(SparsightError, match="do not match"):
        FaceData(held_out.faces[:2], held_out.pixels)
