"""What the page of an emergence run shows."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from markupsafe import Markup

from sparsight.report.emergence import edits, figures, gallery, headline, tables
from sparsight.report.emergence.sites import STAGES, short_site, stages_of, strength_text
from sparsight.report.numbers import read_number
from sparsight.report.run_files import RunFiles, dig, listing, mapping
from sparsight.report.sheets import Sprites

EDIT_FACTS = ("site", "k", "normaliser", "scope", "by", "share", "most", "test")
SECTIONS = {
    "emergence": ("Emergence", ("composition_rows",)),
    "film": ("Film strip", ("film",)),
    "latents": ("Latents", ("latents",)),
    "layout": ("Layout", ("layout_grid", "layout_rows")),
    "style": ("Style", ("style_grid", "style_rows")),
    "evolution": ("Evolution", ("evolution",)),
    "saes": ("SAEs", ("sae_rows", "across_rows")),
}


def emergence_context(run: RunFiles, sprites: Sprites) -> dict[str, Any]:
    """Everything that the template asks for and that is not on every page."""
    metrics = run.metrics
    cards = headline.cards(metrics)
    shown = {
        "cards": cards,
        "verdict": headline.verdict(cards),
        "facts": headline.facts(run),
        "name": str(run.recipe.get("name") or "emergence"),
        "seeds": ", ".join(map(str, listing(metrics.get("seeds")))) or "unknown",
        **_emergence(metrics),
        "film": gallery.film(run, sprites),
        "latents": gallery.latents(run, sprites),
        **_edits(run, sprites),
        "evolution": figures.evolution_charts(metrics),
        "sae_rows": tables.sae_rows(metrics),
        "across_rows": tables.across_rows(metrics),
        "sae_columns": [title for _, title, _ in tables.SAE_COLUMNS],
        "names": {str(key): str(value) for key, value in mapping(metrics.get("names")).items()},
        "short_site": short_site,
        "own_css": _own("style.css"),
        "own_js": _own("panels.js"),
    }
    return shown | {"present": _present(shown)}


def _present(shown: dict[str, Any]) -> dict[str, str]:
    """The sections that have something to show, with their names in the navigation."""
    return {id: title for id, (title, parts) in SECTIONS.items() if any(shown[part] for part in parts)}


def _own(name: str) -> Markup:
    """A file of this folder as it is."""
    return Markup(files("sparsight.report.emergence").joinpath(name).read_text("utf-8"))


def _emergence(metrics: dict[str, Any]) -> dict[str, Any]:
    charts, k = figures.emergence_charts(metrics)
    rows = tables.composition_rows(metrics)
    sizes = sorted({n.n for row in rows for n in row.numbers if n.n is not None})
    return {
        "stage_charts": charts,
        "drawn_k": k,
        "by_evidence": figures.chosen_reading(metrics).get("reading") == "evidence",
        "time_chart": figures.time_chart(metrics),
        "composition_rows": rows,
        "n_images": " to ".join(str(n) for n in dict.fromkeys((sizes[0], sizes[-1])))
        if sizes
        else "an unknown number of",
    }


def _edits(run: RunFiles, sprites: Sprites) -> dict[str, Any]:
    """Both kinds of edits: pictures, tables, and how the edits were made."""
    metrics = run.metrics
    return {
        "layout_grid": edits.layout_grid(run, sprites),
        "layout_rows": tables.layout_rows(metrics),
        "object_table": tables.object_table(metrics),
        "unedited": read_number(metrics, "layout", "unedited", unit="%"),
        "chance": read_number(metrics, "layout", "chance", unit="%"),
        "style_grid": edits.style_grid(run, sprites),
        "style_rows": tables.style_rows(metrics),
        "each_style": tables.each_style(metrics),
        "style_columns": [title for _, title, _ in tables.STYLE_COLUMNS],
        "strengths": {part: _strengths(metrics, part) for part in ("layout", "style")},
        "trials": {part: tables.tried_rows(metrics, part) for part in ("layout", "style")},
        "tried_columns": [*tables.TRIED.values(), "strength", *STAGES],
        "edits": {part: _edit(metrics, part) for part in ("layout", "style")},
    }


def _strengths(metrics: dict[str, Any], part: str) -> list[tuple[str, str]]:
    return [(stage, strength_text(metrics, part, stage)) for stage in stages_of(dig(metrics, part, "stages"))]


def _edit(metrics: dict[str, Any], part: str) -> list[tuple[str, str]]:
    """How an edit was made, as metrics.json says it."""
    told = mapping(dig(metrics, part, "edit"))
    return [(key, str(told[key])) for key in EDIT_FACTS if key in told]
