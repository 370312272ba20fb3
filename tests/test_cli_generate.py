"""`sparsight generate` and `sparsight sites` on a text-to-image folder, as a user calls them."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from sparsight import SparsightError
from sparsight.cli import app
from tiny import tiny_pipeline
from tiny_text import SITES, tiny_text_pipeline


def call(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "200", "TERM": "dumb"})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("pipe")
    tiny_text_pipeline().save_pretrained(path)
    return path


@pytest.mark.parametrize(("guidance", "negative"), [("7.5", ""), ("3", "dog"), ("1", "")])
def test_the_image_is_diffusers_own(folder, tmp_path, guidance, negative):
    options = ["--seed", 5, "--steps", 6, "--guidance", guidance, "--negative", negative]
    done = call("generate", folder, "--prompt", "a cat", *options, "-o", tmp_path / "cat.png")
    assert done.exit_code == 0, done.output
    theirs = tiny_text_pipeline()(
        "a cat", negative_prompt=negative, guidance_scale=float(guidance), num_inference_steps=6,
        generator=torch.Generator().manual_seed(5), output_type="np",
    ).images[0]  # fmt: skip
    ours = np.asarray(Image.open(tmp_path / "cat.png"))
    np.testing.assert_allclose(ours / 255, theirs, atol=0.6 / 255)


def test_an_empty_prompt_is_allowed_but_said_and_a_long_one_says_what_is_lost(folder, tmp_path):
    done = call("generate", folder, "--prompt", " ", "--steps", 2, "-o", tmp_path / "a.png")
    assert done.exit_code == 0 and "the prompt is empty" in done.stderr and (tmp_path / "a.png").exists()
    done = call("generate", folder, "-p", "a b c d e f g h i cat dog", "--steps", 2, "-o", tmp_path / "b.png")
    assert done.exit_code == 0 and "'dog' is not read" in done.stderr and "Warning" not in done.stderr
    assert "Token indices" not in done.stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--guidance", 0.5], "must be at least 1"),
        (["--steps", 2000], "the schedule has 1 to 1000"),
        (["--negative", "dog", "--guidance", 1], "does nothing at guidance 1"),
        (["--out", "cat.jpg"], "must end in .png"),
    ],
)
def test_a_mistake_is_one_sentence_and_writes_nothing(folder, tmp_path, options, words, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = call("generate", folder, "--prompt", "a cat", *options)
    assert isinstance(done.exception, SparsightError) and words in str(done.exception)
    assert "\n" not in str(done.exception) and not list(tmp_path.iterdir())


def test_models_that_cannot_draw_are_named(tmp_path):
    for name, words in ((tmp_path / "nowhere", "does not exist"), (tmp_path, "holds no model_index.json")):
        done = call("generate", name, "--prompt", "a cat", "-o", tmp_path / "x.png")
        assert isinstance(done.exception, SparsightError) and words in str(done.exception)
    tiny_pipeline().save_pretrained(tmp_path / "plain")
    done = call("generate", tmp_path / "plain", "--prompt", "a cat", "-o", tmp_path / "x.png")
    assert "takes no prompts" in str(done.exception) and not (tmp_path / "x.png").exists()


def test_sites_lists_the_blocks_that_hear_the_prompt(folder):
    text = call("sites", folder).stdout
    for site in SITES:
        assert site in text
    assert "more sites with --all" in text and "resnets" not in text and "4x4" in text
    everything = call("sites", folder, "--all").stdout
    assert "up_blocks.0.resnets.1" in everything and "more sites" not in everything


def test_sites_can_be_tested_with_a_prompt(folder):
    tested = call("sites", folder, "--causal", "--images", 2, "--steps", 3, "--site", SITES[1], "--prompt", "a cat")
    assert tested.exit_code == 0, tested.output
    assert "image that follows" in tested.stdout and "%" in tested.stdout
    done = call("sites", folder, "--prompt", "a cat")
    assert "for the causal test" in str(done.exception)


def test_a_broken_index_is_one_sentence(tmp_path):
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "FluxPipeline"}))
    done = call("sites", tmp_path)
    assert "FluxPipeline is not supported" in str(done.exception)
