"""A run on one's own model: judges from folders, prompts from a file, and sentences for what is missing."""

import pytest
import torch

from concepts.tiny_annotators import clip_tokenizer, clipseg, grounding_dino, sam
from sparsight import SparsightError, load_recipe, run_recipe
from sparsight.concepts.annotators import ClipSeg
from sparsight.pipeline.emergence.own_models import OwnConfig, OwnDomain
from tiny_text import tiny_text_pipeline


def clip(folder):
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    torch.manual_seed(0)
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {
        **small,
        "vocab_size": 54,
        "max_position_embeddings": 8,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 1,
    }
    config = CLIPConfig(text_config=text, vision_config={**small, "image_size": 32, "patch_size": 8}, projection_dim=16)
    for part in (CLIPModel(config), clip_tokenizer(), CLIPImageProcessor(size=32, crop_size=32)):
        part.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    root = tmp_path_factory.mktemp("own")
    tiny_text_pipeline().save_pretrained(root / "model")
    (root / "prompts.txt").write_text("\n".join(f"a cat on a dog {i}" for i in range(40)))
    judges = {"detector": grounding_dino(root / "dino"), "segmenter": sam(root / "sam"),
              "localiser": clipseg(root / "seg"), "clip": clip(root / "clip")}  # fmt: skip
    return OwnConfig(model=str(root / "model"), prompts=str(root / "prompts.txt"), kinds=("cat", "dog"),
                     styles=("red", "two"), **{name: str(folder) for name, folder in judges.items()})  # fmt: skip


def images(count=3):
    return torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_clipseg_scores_every_pixel_of_every_image_alone(config):
    localiser = ClipSeg(config.localiser)
    together = localiser.scores(images(), "cat")
    assert together.shape == (3, 32, 32) and together.min() >= 0 and together.max() <= 1
    torch.testing.assert_close(localiser.scores(images()[1:2], "cat"), together[1:2], atol=1e-5, rtol=1e-4)
    assert not torch.allclose(localiser.scores(images(), "dog"), together, atol=1e-6)


def test_annotations_end_with_the_style_that_clip_finds(config):
    domain = OwnDomain(config)
    found = domain.annotator.annotate(images(), ["a cat", "a dog", "two cats"])
    best = (domain.clip.image(images()) @ domain.words(["red", "two"]).T).argmax(1)
    assert [own[-1].label for own in found] == [domain.styles[i] for i in best.tolist()]
    assert all(own[-1].mask.all() and {a.label for a in own[:-1]} <= {"cat", "dog"} for own in found)
    recognised = domain.recognised(images(), "red") + domain.recognised(images(), "two")
    assert torch.equal(recognised, torch.ones(3))


def test_style_prompts_come_from_the_end_and_never_twice(config):
    domain = OwnDomain(config)
    validation, test = (domain.plain_prompts(range(base, base + 5)) for base in (3_000_000, 4_000_000))
    assert not set(validation) & set(test) and len({*validation, *test}) == 10
    assert test[0] == "a cat on a dog 39" and validation[0] == "a cat on a dog 38"
    with pytest.raises(SparsightError, match="need 41 prompts"):
        domain.plain_prompts([4_000_020])


def test_what_is_missing_is_said(config, tmp_path):
    with pytest.raises(SparsightError, match=r"must say own\.model"):
        run_recipe(load_recipe("demo-scenes", ["world=own"]), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    from dataclasses import replace

    with pytest.raises(SparsightError, match="SAM segmenter"):
        OwnDomain(replace(config, segmenter=str(tmp_path / "nowhere"))).annotator  # noqa: B018


def test_a_run_on_an_own_model_ends_in_figures(config, tmp_path):
    site = "mid_block.attentions.0:update"
    small = [
        "world=own", *(f"own.{name}={value}" for name, value in vars(config).items() if isinstance(value, str)),
        "own.kinds=[cat, dog]", "own.styles=[red, two]", f"sites=[{site}]", "k=[4]", "between=0", "objects=[cat]", "styles=[red]",
        "sampling.steps=5", "sampling.batch_size=4", "precision=fp32", "prompts.train=8", "prompts.held_out=2",
        "prompts.dictionary=6", "prompts.validation=4", "prompts.test=4", "sae.steps=4", "sae.batch_size=64",
        "sae.lr_decay=2", "sae.lr_warmup=1", "sae.aux_k=0", "layout.k=4", "layout.strengths=[1]", "layout.validation=1",
        "layout.test=1", "style.k=4", "style.strengths=[1]", "style.validation=2", "style.test=2",
        "dictionary.iou=0.01", "dictionary.threshold=0.0", f"layout.site={site}", f"style.site={site}",
    ]  # fmt: skip
    run = run_recipe(load_recipe("demo-scenes", small), tmp_path / "run", until="style")
    assert (run.folder / "style.json").exists() and len(list((run.folder / "images").glob("*.png"))) == 24
