"""Names of places and of methods as the page writes them."""

from __future__ import annotations

from typing import Any

from sparsight.report.run_files import dig, mapping, number

STAGES = ("early", "middle", "final")
METHODS = {"concept": "the concept's latents", "random_latents": "random latents",
           "random_directions": "random directions"}  # fmt: skip
HALVES = {"cond": "with the prompt", "uncond": "without it"}


def short_site(site: Any) -> str:
    """The block of a site: ``down_blocks.0`` of ``down_blocks.0.attentions.0:update``."""
    return str(site).replace(":", "-").removesuffix("-update").split(".attentions")[0]


def stages_of(found: Any) -> list[str]:
    """The stages that a part of metrics.json holds, in the order of time."""
    own = mapping(found)
    return [stage for stage in STAGES if stage in own] + [stage for stage in own if stage not in STAGES]


def entries(metrics: dict[str, Any], part: str) -> dict[str, dict[str, Any]]:
    """What a part of metrics.json says of each of its entries in plain words and numbers, by name."""
    return {
        str(name): {key: value for key, value in mapping(facts).items() if isinstance(value, str | int | float)}
        for name, facts in mapping(metrics.get(part)).items()
    }


def readings(metrics: dict[str, Any], **wanted: Any) -> dict[str, dict[str, Any]]:
    """The ways of reading the composition whose facts are these, by name."""
    every = entries(metrics, "composition")
    return {n: f for n, f in every.items() if all(f.get(key) == value for key, value in wanted.items())}


def strength_text(metrics: dict[str, Any], part: str, stage: str) -> str:
    """The strengths that validation chose for a stage, one for each seed."""
    found = dig(metrics, part, "stages", stage, "strength")
    values = [v for v in map(number, found if isinstance(found, list) else [found]) if v is not None]
    return ", ".join(f"{v:g}" for v in dict.fromkeys(values)) or "–"
