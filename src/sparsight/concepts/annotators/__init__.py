"""Annotators: from images to labelled masks, each part of the way replaceable."""

from sparsight.concepts.annotators.clip_tagger import COCO, CaptionTagger, ClipTagger
from sparsight.concepts.annotators.clipseg import ClipSeg
from sparsight.concepts.annotators.florence import Florence
from sparsight.concepts.annotators.grounded import Grounded, suppress
from sparsight.concepts.annotators.grounding_dino import GroundingDino
from sparsight.concepts.annotators.ram import Ram
from sparsight.concepts.annotators.sam import Sam
from sparsight.concepts.annotators.semantic import Semantic
from sparsight.concepts.annotators.truth import TrueMasks

__all__ = [
    "COCO",
    "CaptionTagger",
    "ClipSeg",
    "ClipTagger",
    "Florence",
    "Grounded",
    "GroundingDino",
    "Ram",
    "Sam",
    "Semantic",
    "TrueMasks",
    "suppress",
]
