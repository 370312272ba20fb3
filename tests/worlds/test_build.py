"""The build's parts fit together and resume; the trainings here are far too short to be any good."""

import pytest
from diffusers import LDMPipeline

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


def test_an_unknown_part_is_refused(tmp_path):
    with pytest.raises(SparsightError, match="did you mean 'denoiser'"):
        build(tmp_path / "w", Stages(), only=["denoisr"])
    assert not (tmp_path / "w").exists()
