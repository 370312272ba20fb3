"""Measurements: pure functions of tensors, each figure with its number of images and a bootstrap interval."""

from sparsight.metrics.agreement import attribute_agreement, pearson, psnr, spearman
from sparsight.metrics.bootstrap import Interval, bootstrap, bootstrap_ratio, row_mean
from sparsight.metrics.clip import clip_score, cosine, directional_loss, directional_similarity
from sparsight.metrics.counterfactual import PerImage, counterfactual_gain, inside_share, pixel_l1, pixel_l2
from sparsight.metrics.epr import Damage, EditReport, editing_precision, precision_ratio
from sparsight.metrics.identity import IdentitySimilarity, identity_similarity
from sparsight.metrics.layout import (
    QUADRANTS,
    centre_of_mass,
    intersection_over_union,
    quadrant,
    quadrant_region,
    quadrant_success,
    similarity_rose,
)  # fmt: skip
from sparsight.metrics.perceptual import PerceptualDistance, feature_distance, load_perceptual

__all__ = [
    "QUADRANTS",
    "Damage",
    "EditReport",
    "IdentitySimilarity",
    "Interval",
    "PerImage",
    "PerceptualDistance",
    "attribute_agreement",
    "bootstrap",
    "bootstrap_ratio",
    "centre_of_mass",
    "clip_score",
    "cosine",
    "counterfactual_gain",
    "directional_loss",
    "directional_similarity",
    "editing_precision",
    "feature_distance",
    "identity_similarity",
    "inside_share",
    "intersection_over_union",
    "load_perceptual",
    "pearson",
    "pixel_l1",
    "pixel_l2",
    "precision_ratio",
    "psnr",
    "quadrant",
    "quadrant_region",
    "quadrant_success",
    "row_mean",
    "similarity_rose",
    "spearman",
]
