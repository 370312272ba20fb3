"""Fixtures that every room's tests share."""

import pytest

from sparsight import DiffusionModel
from tiny import tiny_pipeline


@pytest.fixture
def model() -> DiffusionModel:
    return DiffusionModel.from_pipeline(tiny_pipeline(clip_sample=False), name="tiny")
