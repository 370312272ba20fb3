"""The head of the page: three figures by stage, each beside what it must beat, and what the intervals say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sparsight.report.emergence.sites import short_site, stages_of
from sparsight.report.numbers import Number, digits, read_number
from sparsight.report.run_files import RunFiles, dig, find, listing, mapping, number


@dataclass(frozen=True)
class Row:
    """A figure at one stage and what it is compared with."""

    stage: str
    figure: Number
    against: list[tuple[str, Number]]

    @property
    def clear(self) -> bool:
        """Whether the whole interval lies above every comparison."""
        low, others = self.figure.low, [n.value for _, n in self.against if n.value is not None]
        return low is not None and bool(others) and low > max(others)


@dataclass(frozen=True)
class Card:
    """One of the three figures at all stages; `top` is the right end of its scale."""

    name: str
    what: str
    section: str
    rows: list[Row]
    top: float

    @property
    def scale(self) -> str:
        """The right end as text."""
        return digits(self.top, self.rows[0].figure.unit)


def cards(metrics: dict[str, Any]) -> list[Card]:
    """The three figures; one that the run did not measure is left out."""
    return [card for card in (_composition(metrics), _layout(metrics), _style(metrics)) if card.rows]


def _composition(metrics: dict[str, Any]) -> Card:
    key = "composition_iou"
    against = {"mean map": "mean_map", "chance": "chance"}
    rows = [
        Row(s, read_number(metrics, key, s), [(n, read_number(metrics, key, s, k)) for n, k in against.items()])
        for s in stages_of(metrics.get(key))
    ]
    first = mapping(next(iter(mapping(metrics.get(key)).values()), None))
    what = f"mean IoU of the objects read at {short_site(first.get('site', '–'))}, k\u00a0=\u00a0{first.get('k', '–')}"
    return Card("Read the composition", what, "emergence", rows, _top(rows))


def _layout(metrics: dict[str, Any]) -> Card:
    rows = []
    for stage in stages_of(metrics.get("spatial_success")):
        base = ("layout", "stages", stage)
        against = [(name.replace("_", " "), read_number(metrics, *base, name, unit="%"))
                   for name in ("random_latents", "random_directions")]  # fmt: skip
        against += [("chance", read_number(metrics, "spatial_success", stage, "chance", unit="%"))]
        rows.append(Row(stage, read_number(metrics, "spatial_success", stage, unit="%"), against))
    return Card("Move an object", "objects found in the quadrant that was asked for", "layout", rows, 1.0)


def _style(metrics: dict[str, Any]) -> Card:
    rows = []
    for stage in stages_of(metrics.get("global_success")):
        base = ("style", "stages", stage)
        against = [(name.replace("_", " "), read_number(metrics, *base, name, "success", unit="%"))
                   for name in ("random_latents", "random_directions")]  # fmt: skip
        rows.append(Row(stage, read_number(metrics, "global_success", stage, unit="%"), against))
    return Card("Bring in a style", "images that came nearer to the style's words", "style", rows, 1.0)


def _top(rows: list[Row]) -> float:
    """A round number above every figure of the rows."""
    numbers = [n for row in rows for n in (row.figure, *(n for _, n in row.against))]
    highest = max((v for n in numbers for v in (n.value, n.high) if v is not None), default=0.0)
    return next((t for t in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8) if t >= highest), 1.0)


def verdict(found: list[Card]) -> list[tuple[str, str]]:
    """For each figure, at which stages its interval lies above everything that it is compared with."""
    said = []
    for card in found:
        known = [row for row in card.rows if row.figure.value is not None]
        clear = [row.stage for row in known if row.clear]
        where = "every stage" if len(clear) == len(known) else f"the {_listed(clear)} stage{'s'[: len(clear) > 1]}"
        names = [name for name, _ in card.rows[0].against]
        text = f"above {_listed(names)} at {where}" if clear else f"at no stage above all of {_listed(names)}"
        said.append((card.name, f"the 95 % interval lies {text}."))
    return said


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}" if names else ""


def facts(run: RunFiles) -> list[tuple[str, str]]:
    """What the run was made of."""
    seeds = ", ".join(map(str, listing(run.metrics.get("seeds")))) or str(find(run.recipe, "seed") or "–")
    prompts = mapping(run.recipe.get("prompts"))
    steps, guidance = (number(dig(run.recipe, "sampling", key)) for key in ("steps", "guidance"))
    said = [
        ("World", run.recipe.get("world")),
        ("Prompts", ", ".join(f"{count} {use.replace('_', ' ')}" for use, count in prompts.items())),
        ("Sampling", f"DDIM, {steps:g} steps, guidance {guidance:g}" if steps and guidance is not None else ""),
        ("SAEs", str(len(mapping(run.metrics.get("saes"))) or "")),
        ("Seed", seeds),
        ("Date", run.date),
    ]
    return [(name, str(value)) for name, value in said if value]
