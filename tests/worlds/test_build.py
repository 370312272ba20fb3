"""The build's parts fit together and resume; the trainings here are far too short to be any good."""

import json
from pathlib import Path

import pytest
from diffusers import LDMPipeline

import sparsight.worlds
from sparsight import SparsightError
from sparsight.pipeline.reporter import Silent
from sparsight.worlds.avatars.build import build
from sparsight.worlds.avatars.judges import load_classifier


class Stages(Silent):
    def __init__(self):
        self.cached = {}

    def finish(self, stage, seconds, cached):
        self.cached[stage] = cached


def test_a_build_makes_an_ordinary_pipeline_and_a_judge(tmp_path):
    weights = build(tmp_path, Stages(), only=["autoencoder", "denoiser", "resnet"], scale=0.0005)
    pipeline = LDMPipeline.from_pretrained(weights / "model")
    assert pipeline.unet.config.sample_size == 8 and pipeline.scheduler.config.prediction_type == "v_prediction"
    assert load_classifier(weights / "classifiers" / "resnet") is not None
    assert folders_named(weights / "model") == []


def folders_named(folder):
    """The configs that name a folder of the machine they were made on."""
    paths = sorted(folder.rglob("*.json"))
    assert paths
    return [p for p in paths if "/" in (json.loads(p.read_text()) or {}).get("_name_or_path", "")]


@pytest.mark.parametrize("world", ["avatars", "scenes"])
def test_shipped_models_name_no_folder_of_the_machine_they_were_made_on(world):
    assert folders_named(Path(sparsight.worlds.__file__).parent / world / "weights") == []


def test_an_unknown_part_is_refused(tmp_path):
    with pytest.raises(SparsightError, match="did you mean 'denoiser'"):
        build(tmp_path / "w", Stages(), only=["denoisr"])
    assert not (tmp_path / "w").exists()
