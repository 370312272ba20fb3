"""Put the page together and write it, whole or not at all."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from sparsight.files import atomic
from sparsight.report import cards, charts, headline, tables
from sparsight.report.figures import GENERAL, METHOD_FIGURES, SAE_FIGURES
from sparsight.report.numbers import label, read_number
from sparsight.report.run_files import RunFiles, dig, mapping, number
from sparsight.report.sheets import Sprites

TRAINING = (("mse", "MSE", True), ("fve", "FVE", False), ("l0", "L0", True), ("dead", "dead latents", False))
TRUTHS = (("spearman_gain", "counterfactual gain"), ("spearman_true_epr", "true EPR"),
          ("spearman_inside", "inside share"))  # fmt: skip


def write_report(run: Path | str, out: Path | str | None = None) -> Path:
    """Write the report of the finished run folder `run` to `out` (default: `run`/report.html) and return its path.

    The page holds everything it shows and loads nothing. A missing piece leaves a dash or drops its section.
    Raises `SparsightError` if the run has no metrics.json, or one of a newer schema.
    """
    found = RunFiles(Path(run))
    path = Path(out) if out is not None else found.root / "report.html"
    page = _environment().get_template("template.html").render(_context(found))
    with atomic(path) as temporary:
        temporary.write_text(page, "utf-8")
        temporary.chmod(0o644)  # a temporary file is born private; a page is made to be shared
    return path


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("sparsight.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["label"] = label
    environment.filters["plain"] = cards.digits_plain
    return environment


def _asset(name: str) -> Markup:
    """A file of this package as it is: ours, so it needs no escaping."""
    return Markup(files("sparsight.report").joinpath(name).read_text("utf-8"))


def _context(run: RunFiles) -> dict[str, Any]:
    metrics, sprites = run.metrics, Sprites()
    concepts = list(mapping(metrics.get("concepts")))
    shown = {
        **_head(run, concepts),
        **_precision(metrics, concepts),
        **_truth(metrics),
        **_foot(run),
        "concepts": [cards.concept_card(run, sprites, c) for c in concepts],
        "latents": [(c, found) for c in concepts if (found := cards.latent_cards(run, sprites, c))],
        "probes": [(c, svg) for c in concepts if (svg := charts.probe_chart(metrics, c))],
        "training": [(n, svg) for key, n, log in TRAINING if (svg := charts.training_chart(run.log, key, n, log))],
        "sae": [(figure, read_number(metrics, "sae", figure.key, unit=figure.unit)) for figure in SAE_FIGURES],
        "css": _asset("style.css"),
        "js": _asset("page.js"),
    }
    return shown | {"sprites": Markup(sprites.css()), "colours": sprites.colours}


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


def _foot(run: RunFiles) -> dict[str, Any]:
    seconds = {str(k): s for k, v in mapping(run.run.get("seconds")).items() if (s := number(v)) is not None}
    versions = mapping(run.run.get("versions")) | mapping(run.metrics.get("versions"))
    return {
        "recipe_text": run.recipe_text,
        "command": str(run.run.get("command") or ""),
        "seconds": seconds,
        "versions": {str(k): str(v) for k, v in versions.items()},
        "definitions": [("Edits", METHOD_FIGURES), ("SAE", SAE_FIGURES), ("Throughout", GENERAL)],
    }
