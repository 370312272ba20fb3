"""What the page of a comparison shows."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from markupsafe import Markup

from sparsight.report.compare import charts, gallery, tables
from sparsight.report.compare.names import ours_of, short
from sparsight.report.compare.views import views
from sparsight.report.numbers import Number, read_number
from sparsight.report.run_files import RunFiles, dig, listing, mapping
from sparsight.report.sheets import Sprites

WORDS = {
    "images": "faces", "valid": "valid faces", "whole": "the true change", "explained": "", "inversion": "",
    "few": "The SAE is kept.",
}  # fmt: skip


def comparison_context(run: RunFiles, sprites: Sprites) -> dict[str, Any]:
    """Everything that the template asks for and that is not on every page."""
    metrics, methods, ours = run.metrics, mapping(run.metrics.get("methods")), ours_of(run.metrics)
    kinds = views(metrics)
    return {
        "own_css": Markup(files("sparsight.report.compare").joinpath("style.css").read_text("utf-8")),
        "count": len(methods), "ours": ours, "words": WORDS | mapping(metrics.get("words")),
        "short": short, "views": kinds, "verdict": [said for one in kinds for said in one["verdict"]], "keys": keys(metrics),
        "facts": facts(metrics), "names": mapping(metrics.get("names")), "levels": listing(dig(metrics, "recipe", "levels")),
        "galleries": gallery.galleries(run, sprites), "costs": tables.costs(metrics),
        "few_chart": charts.few_chart(mapping(metrics.get("few")), ours), "two": tables.two(metrics),
        "entangled": tables.entangled(metrics), "attributes": listing(dig(metrics, "entanglement", "attributes")),
        "entangled_level": dig(metrics, "entanglement", "level"), "unfit": tables.unfit(metrics),
        "not_applicable": mapping(metrics.get("not_applicable")), "failed": mapping(metrics.get("failed")),
    }  # fmt: skip


def keys(metrics: dict[str, Any]) -> list[tuple[str, Number, str]]:
    """The large figures of the head: how good the inversion is, if there was one, comes before what was done with it."""
    agreement = mapping(dig(metrics, "inversion", "agreement"))
    judge, ours, psnr = str(dig(metrics, "names", "judge")), ours_of(metrics), read_number(metrics, "inversion", "psnr")
    found = [("inversion, PSNR", psnr, "dB, the rebuilt images against the images")] if psnr.value is not None else []
    if judge in agreement:
        share = read_number(metrics, "inversion", "agreement", judge, unit="%")
        found.append(("inversion, attributes kept", share, f"decisions that stay the same, judge {judge}"))
    whole = str((WORDS | mapping(metrics.get("words")))["whole"])
    for kind, own in (mapping(metrics.get("kinds")) or {"": metrics}).items():
        said = f"AUC of {short(ours)}" + (f", {kind}" if kind else "")
        found.append((said, read_number(own, "methods", ours, "auc"), f"share of {whole}, mean over distances"))
    return found


def facts(metrics: dict[str, Any]) -> list[tuple[str, str]]:
    """How large the comparison is."""
    recipe, methods = mapping(metrics.get("recipe")), mapping(metrics.get("methods"))
    done = sum(int(dig(one, "cells", "done") or 0) for one in methods.values())
    seeds = listing(metrics.get("seeds"))
    return [
        ("methods", f"{len(methods)}, and {len(mapping(metrics.get('not_applicable')))} not applicable"),
        ("concepts", str(len(mapping(metrics.get("concepts"))))),
        ("test images", f"{recipe.get('test')} a concept and seed"),
        ("seed" if len(seeds) == 1 else "seeds", ", ".join(map(str, seeds))),
        ("judges", ", ".join(mapping(dig(metrics, "stability", "ranks")))),
        ("cells", f"{done} done, {len(mapping(metrics.get('failed')))} failed"),
    ]  # fmt: skip
