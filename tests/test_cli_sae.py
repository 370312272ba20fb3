"""`sparsight sae` and the page of `sparsight train --help`, as a user calls them."""

import itertools
import re
from dataclasses import fields

import pytest
import torch
from typer.testing import CliRunner

from sae import peers
from sparsight import SAE, SAEConfig, SparsightError
from sparsight.cli import app
from sparsight.cli_train import EXAMPLES, OPTIONS
from sparsight.pipeline.recipe import train_config
from sparsight.sae import TrainConfig


def call(*arguments, code=0):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "200", "TERM": "dumb"})
    assert result.exit_code == code, result.output
    return result.output


def test_an_sae_travels_through_the_command_line(tmp_path):
    x = peers.inputs()
    folder, z, _ = peers.sdxl_unbox(tmp_path / "unet.mid_block.attentions.0_k10_hidden30" / "final", x)
    call("sae", "import", folder, tmp_path / "ours")
    torch.testing.assert_close(SAE.from_pretrained(tmp_path / "ours").encode(x), z)
    call("sae", "export", tmp_path / "ours", tmp_path / "theirs", "--format", "sparsify")
    call("sae", "import", tmp_path / "theirs", tmp_path / "again", "-f", "sparsify")
    torch.testing.assert_close(SAE.from_pretrained(tmp_path / "again").encode(x), z)
    facts = call("sae", "info", tmp_path / "ours")
    for words in ("sdxl_unbox", "top 4 of 30 latents", "mid_block.attentions.0:update", "dead_steps_threshold"):
        assert words in facts
    assert "30 latents" in call("sae", "info", folder.parent, "--subfolder", "final")


def test_info_says_what_only_some_saes_have(tmp_path):
    folder, *_ = peers.dictionary(tmp_path / "theirs", peers.inputs(), "MatryoshkaBatchTopKSAE")
    facts = call("sae", "info", folder)
    for words in ("batchtopk", "4 a token on average of 30 latents", "0.8", "the first 5, 15 latents also reconstruct"):
        assert words in facts
    SAE(SAEConfig(6, 30, "gated", t_edges=(200, 500))).save_pretrained(tmp_path / "ours")
    assert "3 bins, cut at 200, 500" in call("sae", "info", tmp_path / "ours")
    command = ["sae", "export", str(tmp_path / "ours"), str(tmp_path / "out"), "-f", "saelens"]
    assert "conditioned on the timestep" in str(CliRunner().invoke(app, command).exception)


def test_the_help_says_what_a_format_holds():
    page = " ".join(call("sae", "export", "--help").split())
    assert "jumprelu and gated" in page and "told t is refused" in page


def test_a_mistake_in_an_sae_command_is_one_sentence(tmp_path):
    peers.sparsify(tmp_path / "sae", peers.inputs(), peers.sparsify_config(transcode=True))
    result = CliRunner().invoke(app, ["sae", "import", str(tmp_path / "sae"), str(tmp_path / "out")])
    assert isinstance(result.exception, SparsightError) and "a transcoder" in str(result.exception)
    assert not (tmp_path / "out").exists()


def test_the_page_of_train_explains_every_option_with_its_default():
    named = [name for group in OPTIONS.values() for name in group]
    assert sorted(named) == sorted(field.name for field in fields(TrainConfig))
    page = call("train", "--help")
    for name in named:
        value = getattr(TrainConfig(), name)
        shown = {None: "-", (): "[]"}.get(value, f"{value:g}" if isinstance(value, float) else str(value))
        assert re.search(rf"^ +{name} +{re.escape(shown)} +\w", page, re.MULTILINE), name
    for command in EXAMPLES.values():
        assert command in page


@pytest.mark.parametrize("command", [c for c in EXAMPLES.values() if c.startswith("sparsight train")])
def test_the_examples_of_the_page_are_valid(command):
    words = command.split()
    config = train_config([after for before, after in itertools.pairwise(words) if before == "-s"])
    assert config != TrainConfig()


def test_options_of_train_are_checked():
    assert train_config(["steps=7", "lr=1e-3"]) == TrainConfig(steps=7, lr=1e-3)
    with pytest.raises(SparsightError, match=r"did you mean 'sae.expansion'"):
        train_config(["expanson=3"])
