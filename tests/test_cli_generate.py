"""`sparsight generate` and `sparsight sites` on a text-to-image folder, as a user calls them."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from sparsight import DiffusionModel, SparsightError
from sparsight.cli import app
from sparsight.worlds.scenes.world import ScenesWorld
from tiny import tiny_pipeline
from tiny_emergence import tiny_emergence
from tiny_text import SITES, tiny_text_pipeline, tiny_text_unet


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


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory):
    return tiny_emergence(tmp_path_factory.mktemp("edits") / "run", DiffusionModel.load(folder)).folder


def picture(path):
    return np.asarray(Image.open(path))


def test_edits_are_written_beside_the_unedited_image_with_a_line_each(folder, run, tmp_path):
    plain = call("generate", folder, "-p", "a cat", "--seed", 4, "--steps", 10, "-g", 3, "-o", tmp_path / "plain.png")
    assert plain.exit_code == 0 and plain.stdout.split() == [str(tmp_path / "plain.png")]
    edits = ["--move", "cat:top-left", "--move", "dog:top-right:0.5", "--style", "pencil:0.6", "--run", run]
    done = call("generate", folder, "-p", "a cat", "--seed", 4, *edits, "-o", tmp_path / "pair.png")
    assert done.exit_code == 0, done.output
    pair = picture(tmp_path / "pair.png")
    assert pair.shape == (16, 32, 3) and np.array_equal(pair[:, :16], picture(tmp_path / "plain.png"))
    assert not np.array_equal(pair[:, 16:], pair[:, :16])
    lines = done.stdout.splitlines()
    assert [line.split(":")[0] for line in lines[:3]] == [
        "cat to top-left, early", "dog to top-right, early", "pencil, middle",
    ]  # fmt: skip
    assert lines[3] == str(tmp_path / "pair.png") and len(lines) == 4
    assert "latents 3, 7; beta " in lines[0] and "|shift|/|h| cond 0." in lines[0] and "uncond 0.00" in lines[0]


def test_strength_zero_writes_two_equal_halves_and_the_runs_own_model_may_be_left_out(
    folder, run, tmp_path, monkeypatch
):
    monkeypatch.setattr(ScenesWorld, "model", str(folder))
    zero = ["--move", "cat:top-left:0", "--style", "pencil:0", "--window", "0.2-1.0"]
    done = call("generate", "--run", run, "-p", "a cat", *zero, "-o", tmp_path / "pair.png")
    assert done.exit_code == 0, done.output
    pair = picture(tmp_path / "pair.png")
    assert np.array_equal(pair[:, :16], pair[:, 16:]) and len(done.stdout.splitlines()) == 5  # two stages each


def test_an_empty_prompt_can_be_edited_and_is_said(folder, run, tmp_path):
    done = call("generate", folder, "--run", run, "-p", "", "--move", "cat:top-left", "-o", tmp_path / "a.png")
    assert done.exit_code == 0 and "the prompt is empty" in done.stderr and (tmp_path / "a.png").exists()


def test_words_that_the_tokenizer_or_the_world_does_not_know_are_said_and_drawn_without(folder, run, tmp_path):
    done = call(
        "generate", folder, "-p", "cät 7 cat", "--steps", 2, "-o", tmp_path / "a.png"
    )  # no ä, no 7 in its letters
    assert done.exit_code == 0 and "does not know the words 'cät', '7':" in done.stderr
    done = call("generate", folder, "-p", "zebra cat", "--steps", 2, "-o", tmp_path / "b.png")
    assert done.exit_code == 0 and "does not know" not in done.stderr  # its letters are known: it is spelt out
    style = ["--style", "pencil", "--run", run, "-o", tmp_path / "c.png"]
    done = call("generate", folder, "-p", "a Zebra, cat", *style)  # no caption of the run's world has a zebra
    assert done.exit_code == 0 and "does not know the words 'zebra':" in done.stderr
    done = call("generate", folder, "-p", "a b c d e f g h i cat dog", *style)
    assert done.stderr.count("'dog' is not read") == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--move", "cat:top-left"], "--move and --style need --run"),
        (["--style", "pencil"], "--move and --style need --run"),
        (["--window", "0.6-1.0"], "are for edits: give --move or --style"),
        (["--run", "RUN"], "are for edits: give --move or --style"),
        (["--run", "RUN", "--move", "cat"], "must have the form WORD:PLACE"),
        (["--run", "RUN", "--move", "cat:top_left"], "did you mean 'top-left'"),
        (["--run", "RUN", "--move", "cat:top-left:-1"], "from 0 on"),
        (["--run", "RUN", "--move", "cat:mask.png"], "mask.png does not exist"),
        (["--run", "RUN", "--move", "cta:top-left"], "did you mean 'cat'"),
        (["--run", "RUN", "--style", "pencil:much"], "which is no strength"),
        (["--run", "RUN", "--style", "pencil", "--window", "early"], "must have the form LOW-HIGH"),
        (["--run", "RUN", "--style", "pencil", "--guidance", 1, "--negative", "dog"], "does nothing at guidance 1"),
        (["--run", "RUN", "--style", "pencil", "--out", "cat.jpg"], "must end in .png"),
        (["--run", "nowhere", "--style", "pencil"], "nowhere is no run folder"),
    ],
)
def test_a_mistaken_edit_is_one_sentence_and_writes_nothing(folder, run, tmp_path, options, words, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = call("generate", folder, "--prompt", "a cat", *[run if option == "RUN" else option for option in options])
    assert isinstance(done.exception, SparsightError) and words in str(done.exception)
    assert "\n" not in str(done.exception) and not list(tmp_path.iterdir())


def test_a_model_is_needed_and_must_be_the_runs(run, tmp_path):
    done = call("generate", "-p", "a cat", "-o", tmp_path / "x.png")
    assert "name a MODEL" in str(done.exception)
    other = tiny_text_pipeline()
    other.unet = tiny_text_unet(seed=7)
    other.save_pretrained(tmp_path / "other")
    done = call(
        "generate", tmp_path / "other", "-p", "a cat", "--run", run, "--style", "pencil", "-o", tmp_path / "x.png"
    )
    assert isinstance(done.exception, SparsightError) and "is of the model" in str(done.exception)
    assert not (tmp_path / "x.png").exists()


def test_the_help_says_what_edits_mean():
    page = call("generate", "--help").stdout
    for words in ("WORD:PLACE[:STRENGTH]", "--move cat:mask.png", "runs/demo-scenes", "mean norm of the push"):
        assert words in page


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
