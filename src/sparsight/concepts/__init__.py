"""Concepts: what people name, how latents are aligned to it, and how well they predict it."""

from sparsight.concepts.alignment import Alignment
from sparsight.concepts.concept import Concept, choose
from sparsight.concepts.learn import AlignConfig, align
from sparsight.concepts.probe import pool, pool_by_image, probe_accuracy

__all__ = ["AlignConfig", "Alignment", "Concept", "align", "choose", "pool", "pool_by_image", "probe_accuracy"]
