"""Fixtures that every room's tests share."""

import pytest
from tiny import tiny_pipeline

from sparsight import DiffusionModel


@pytest.fixture
def model() -> DiffusionModel:
    return DiffusionModel.from_pipeline(tiny_pipeline(clip_sample=False), name="tiny")
