"""Concepts: what people name, how latents are aligned to it, and how well they predict it."""

from sparsight.concepts.alignment import Alignment
from sparsight.concepts.concept import Concept, choose
from sparsight.concepts.learn import align
from sparsight.concepts.paths import AlignConfig
from sparsight.concepts.probe import pool, pool_by_image, probe_accuracy
from sparsight.concepts.refit import refit

__all__ = ["AlignConfig", "Alignment", "Concept", "align", "choose", "pool", "pool_by_image", "probe_accuracy", "refit"]
