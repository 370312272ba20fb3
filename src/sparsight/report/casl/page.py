"""What CASL's page shows."""

from __future__ import annotations

from typing import Any

from sparsight.report.casl import cards, charts, headline, tables
from sparsight.report.casl.figures import GENERAL, METHOD_FIGURES, SAE_FIGURES
from sparsight.report.numbers import read_number
from sparsight.report.run_files import RunFiles, dig, mapping
from sparsight.report.sheets import Sprites

TRAINING = (("mse", "MSE", True), ("fve", "FVE", False), ("l0", "L0", True), ("dead", "dead latents", False))
TRUTHS = (("spearman_gain", "counterfactual gain"), ("spearman_true_epr", "true EPR"),
          ("spearman_inside", "inside share"))  # fmt: skip


def casl_context(run: RunFiles, sprites: Sprites) -> dict[str, Any]:
    """Everything that the template asks for and that is not on every page."""
    metrics = run.metrics
    concepts = list(mapping(metrics.get("concepts")))
    return {
        **_head(run, concepts),
        **_precision(metrics, concepts),
        **_truth(metrics),
        "concepts": [cards.concept_card(run, sprites, c) for c in concepts],
        "latents": [(c, found) for c in concepts if (found := cards.latent_cards(run, sprites, c))],
        "probes": [(c, svg) for c in concepts if (svg := charts.probe_chart(metrics, c))],
        "training": [(n, svg) for key, n, log in TRAINING if (svg := charts.training_chart(run.log, key, n, log))],
        "sae": [(figure, read_number(metrics, "sae", figure.key, unit=figure.unit)) for figure in SAE_FIGURES],
        "definitions": [("Edits", METHOD_FIGURES), ("SAE", SAE_FIGURES), ("Throughout", GENERAL)],
    }


def _head(run: RunFiles, concepts: list[str]) -> dict[str, Any]:
    best = headline.best_control(run.metrics)
    return {
        "facts": headline.facts(run),
        "count": headline.count_of(len(concepts)),
        "control": best,
        "keys": headline.key_figures(run.metrics, best),
        "verdict": headline.verdict(run.metrics, best),
        "seed": run.metrics.get("seed", "unknown"),
        "names": {str(k): str(v) for k, v in mapping(run.metrics.get("names")).items()},
    }


def _precision(metrics: dict[str, Any], concepts: list[str]) -> dict[str, Any]:
    sizes = {n.n for c in concepts for m in ["casl"]
             if (n := read_number(metrics, "concepts", c, "methods", m, "epr")).n is not None}  # fmt: skip
    return {
        "epr": tables.epr_table(metrics),
        "epr_charts": tables.epr_charts(metrics),
        "n_images": " to ".join(str(n) for n in sorted({min(sizes), max(sizes)})) if sizes else "an unknown number of",
        "details": [(c, tables.concept_table(metrics, c)) for c in concepts],
        "sweeps": [(c, grid) for c in concepts if (grid := tables.sweep_table(metrics, c))],
    }


def _truth(metrics: dict[str, Any]) -> dict[str, Any]:
    """The scatter and the correlations that were measured on it."""
    points = []
    for concept in mapping(metrics.get("concepts")):
        for method in mapping(dig(metrics, "concepts", concept, "methods")):
            base = ("concepts", concept, "methods", method)
            epr, gain = (read_number(metrics, *base, key).value for key in ("epr", "counterfactual_gain"))
            points += [(method, epr, gain)] if epr is not None and gain is not None and epr > 0 else []
    points.sort(key=lambda point: point[0] != "casl")
    measured = [(name, read_number(metrics, "epr_vs_truth", key)) for key, name in TRUTHS]
    return {
        "truth_chart": charts.truth_chart(points),
        "truths": [(name, n) for name, n in measured if n.value is not None or n.n is not None],
    }
