"""Concepts: what people name, how latents are aligned to it or annotated with it, and how well they predict it."""

from sparsight.concepts.alignment import Alignment
from sparsight.concepts.annotation import Annotation, Annotator, Detector, Segmenter, Tagger
from sparsight.concepts.annotations import Annotations, annotate_images
from sparsight.concepts.baselines import MeanMap, attention_maps, attention_scores, chance_iou, token_places
from sparsight.concepts.composition import ConceptReader
from sparsight.concepts.concept import Concept, choose
from sparsight.concepts.dictionary import ConceptDictionary
from sparsight.concepts.dictionary_build import (
    DictionaryBuilder,
    DictionaryConfig,
    build_dictionary,
    largest_activations,
)
from sparsight.concepts.evidence import Evidence
from sparsight.concepts.evolution import cohesion, label_agreement, match_by_embedding, match_by_labels, similarity
from sparsight.concepts.learn import align
from sparsight.concepts.map_statistics import MapStatistics
from sparsight.concepts.nouns import KnownNouns, ParsedNouns
from sparsight.concepts.paths import AlignConfig
from sparsight.concepts.pca import PcaCoder
from sparsight.concepts.probe import pool, pool_by_image, probe_accuracy
from sparsight.concepts.refit import refit
from sparsight.concepts.tally import CompositionScore, Tally, iou_at, mean_iou
from sparsight.concepts.targets import Targets, targets_of
from sparsight.concepts.words import WordVectors, embed_labels, embed_word, open_words

__all__ = [
    "AlignConfig", "Alignment", "Annotation", "Annotations", "Annotator", "CompositionScore", "Concept",
    "ConceptDictionary", "ConceptReader", "Detector", "DictionaryBuilder", "DictionaryConfig", "Evidence", "KnownNouns",
    "MapStatistics", "MeanMap", "ParsedNouns", "PcaCoder", "Segmenter", "Tagger", "Tally", "Targets", "WordVectors",
    "align", "annotate_images", "attention_maps", "attention_scores", "build_dictionary", "chance_iou", "choose",
    "cohesion", "embed_labels", "embed_word", "iou_at", "label_agreement", "largest_activations", "match_by_embedding",
    "match_by_labels",
    "mean_iou", "open_words", "pool", "pool_by_image", "probe_accuracy", "refit", "similarity", "targets_of",
    "token_places",
]  # fmt: skip
