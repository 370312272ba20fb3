"""The head of the page: what was run, and the verdict in numbers, in words that claim no more than they show."""

from __future__ import annotations

from typing import Any

from sparsight.report.numbers import Number, label, mean_of, method_names, read_number
from sparsight.report.run_files import RunFiles, dig, find, mapping, number

KEY_FIGURES = (
    ("epr", "EPR", "", "mean over concepts"),
    ("flip_rate", "flip rate", "%", "of the images that could flip"),
    ("counterfactual_gain", "counterfactual gain", "", "1 is the true counterfactual, 0 no edit"),
)


def facts(run: RunFiles) -> list[tuple[str, str]]:
    """Model, site, size of the SAE and the rest, as far as they are known."""
    config = run.json("sae", "config.json")
    size, channels = number(find(config, "d_sae")), number(find(config, "d_in"))
    latents = f"{size:,.0f} latents" if size else None
    if latents and channels:
        latents += f" over {channels:,.0f} channels"
    found = {
        "Model": find(run.recipe, "model"),
        "Site": find(run.recipe, "site") or find(config, "site"),
        "SAE": latents,
        "Recipe": find(run.recipe, "name") or run.root.resolve().name,
        "Seed": run.metrics.get("seed"),
        "Date": run.date,
    }
    return [(name, str(value)) for name, value in found.items() if value is not None]


def key_figures(metrics: dict[str, Any], best: str | None) -> list[dict[str, Any]]:
    """CASL's three main figures, each beside the same figure of the best control."""
    shown: list[dict[str, Any]] = []
    for key, name, unit, note in KEY_FIGURES:
        casl = mean_of(_over_concepts(metrics, "casl", key, unit))
        if casl.value is None:
            continue
        control = mean_of(_over_concepts(metrics, best, key, unit)) if best else None
        shown.append({"name": name, "key": key, "note": note, "casl": casl, "control": control})
    return shown


def _over_concepts(metrics: dict[str, Any], method: str, key: str, unit: str = "") -> list[Number]:
    """A figure of `method` in each concept where the method was run."""
    concepts = mapping(metrics.get("concepts"))
    return [read_number(metrics, "concepts", c, "methods", method, key, unit=unit) for c in concepts]


def best_control(metrics: dict[str, Any]) -> str | None:
    """The control with the highest mean EPR over the concepts."""
    means = {m: mean_of(_over_concepts(metrics, m, "epr")).value for m in method_names(metrics) if m != "casl"}
    known = {m: value for m, value in means.items() if value is not None}
    return max(known, key=lambda m: known[m]) if known else None


def verdict(metrics: dict[str, Any], best: str | None) -> list[str]:
    """One or two plain sentences: how often CASL leads, and how often the interval agrees."""
    leads, clear, behind, compared = 0, 0, 0, 0
    for concept in mapping(metrics.get("concepts")):
        ratios = _ratios(metrics, concept)
        if not ratios:
            continue
        compared += 1
        leads += all((r.value or 0) > 1 for r in ratios)
        clear += all(r.low is not None and r.low > 1 for r in ratios)
        behind += any(r.high is not None and r.high < 1 for r in ratios)
    if not compared:
        return _without_ratios(metrics, best)
    said = [f"CASL is the most precise method in {_of(leads, compared)}."]
    said.append(f"Against each of the controls, the 95\u00a0% interval is clear of a tie in {_of(clear, compared)}.")
    if behind:
        said.append(f"In {_of(behind, compared)}, at least one control is clearly more precise.")
    return said


def _ratios(metrics: dict[str, Any], concept: str) -> list[Number]:
    """CASL over each control, where that was measured."""
    methods = mapping(dig(metrics, "concepts", concept, "methods"))
    ratios = [read_number(metrics, "concepts", concept, "methods", m, "versus_casl") for m in methods if m != "casl"]
    return [ratio for ratio in ratios if ratio.value is not None]


def _without_ratios(metrics: dict[str, Any], best: str | None) -> list[str]:
    casl = mean_of(_over_concepts(metrics, "casl", "epr"))
    if casl.value is None:
        return ["This run measured no EPR of CASL, so it says nothing on how precise the edits are."]
    if best is None:
        return [f"CASL's mean EPR is {casl.text}; no control was run, so nothing can be said against it."]
    control = mean_of(_over_concepts(metrics, best, "epr"))
    return [f"CASL's mean EPR is {casl.text}, that of the best control, {label(best)}, is {control.text}."]


WORDS = ["No", "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight", "Nine", "Ten", "Eleven", "Twelve"]


def count_of(total: int) -> str:
    """How many concepts, as a title says it: "Six concepts"."""
    word = WORDS[total] if total < len(WORDS) else str(total)
    return f"{word} concept{'' if total == 1 else 's'}"


def _of(count: int, total: int) -> str:
    if total == 1:
        return "the one concept" if count else "0 of 1 concepts"
    return f"all {total} concepts" if count == total else f"{count} of {total} concepts"
