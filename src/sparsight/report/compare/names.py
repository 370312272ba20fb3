"""What methods are called on the page, and which are named in a chart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sparsight.report.run_files import dig, number

NAMED = 4  # curves that carry a name in a chart
SHORT = {
    "casl": "CASL", "casl_everywhere": "CASL, everywhere", "casl_text": "CASL, texts alone", "casl_labels": "CASL, labels alone",
    "casl_paper": "CASL as published",
    "casl_paper_k8": "CASL as published, k = 8",
    "boundary_site_only": "BoundaryDiffusion, h alone", "casl_no_sae": "CASL, no SAE", "casl_random_latent": "CASL, random latents",
    "casl_random_direction": "CASL, random directions", "casl_decoder_atom": "CASL, decoder atoms",
    "haas_supervised": "Haas, supervised",
    "haas_pca": "Haas, PCA", "haas_jacobian": "Haas, Jacobian", "park_pullback": "Park, pullback", "asyrp": "Asyrp",
    "difflens": "DiffLens", "saeuron": "SAeUron", "boundary_diffusion": "BoundaryDiffusion", "image_slider": "image slider",
    "mean_difference": "mean difference", "mean_difference_map": "mean difference, map",
    "evidence": "latents by evidence", "surkov_features": "Surkov et al.", "tinaz_global": "Tinaz et al., global",
    "tinaz_spatial": "Tinaz et al., spatial", "prompt_to_prompt": "Prompt-to-Prompt", "masactrl": "MasaCtrl",
    "text_slider": "Concept Slider, texts",
}  # fmt: skip


def short(name: str) -> str:
    """A name that fits beside a line."""
    return SHORT.get(name, name.replace("_", " "))


def ranked(methods: Mapping[str, Any]) -> list[str]:
    """The methods in the order of their AUC."""
    return sorted(methods, key=lambda name: -(number(dig(methods, name, "auc", "value")) or -1e9))


def ours_of(metrics: Mapping[str, Any]) -> str:
    """The method that the page brings out."""
    return str(metrics.get("ours") or "casl")


def named(methods: Mapping[str, Any], ours: str) -> list[str]:
    """Ours and the best of the others."""
    order = ranked(methods)
    return [n for n in order if n == ours] + [n for n in order if n != ours][:NAMED]
