"""Tables for docs/results: comparison.json, and the page of tables beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sparsight.errors import SparsightError
from sparsight.files import read_json
from sparsight.markdown import interval, table, write_tables
from sparsight.pipeline.compare.run import CompareRun

KEPT = (
    "seeds",
    "versions",
    "names",
    "inversion",
    "not_applicable",
    "failed",
    "stability",
    "orders",
    "ours",
    "kinds",
    "unfit",
    "few",
    "two",
    "recipe",
    "truth",
)
OF_CONCEPT = (("auc", "AUC"), ("epr", "EPR"), ("true_epr", "true EPR"))
FIGURES = (
    ("auc", "AUC"), ("rank", "place"), ("versus", "ours minus it"), ("auc_damage", "AUC over other logits"),
    ("auc_identity_loss", "AUC over identity"), ("epr", "EPR"), ("true_epr", "true EPR"), ("flip_rate", "flips"),
    ("gain", "counterfactual gain"),
)  # fmt: skip


def write_results(runs: Sequence[CompareRun], out: Path, command: str) -> dict[str, Any]:
    """Write `out`.json and `out`.tables.md of one comparison, which holds all its seeds already.

    Raises `SparsightError` for more than one run, or one that was not evaluated.
    """
    if len(runs) != 1:
        raise SparsightError("a comparison holds all its seeds: give one run folder")
    metrics = read_json(runs[0].folder / "metrics.json")
    found = {"command": command, "methods": metrics["methods"], **{key: metrics[key] for key in KEPT}}
    found["concepts"] = {concept: _of_concept(one) for concept, one in metrics["concepts"].items()}
    write_tables(out, found, tables(found))
    return found


def _of_concept(one: Mapping[str, Any]) -> dict[str, Any]:
    """What is kept of a concept: no curves."""
    methods = {name: {key: by[key] for key, _ in OF_CONCEPT} for name, by in one["methods"].items()}
    return {
        **one,
        "methods": methods,
        "truth": one["truth"] and {key: v for key, v in one["truth"].items() if key != "curve"},
    }


def tables(found: Mapping[str, Any]) -> str:
    """The tables in Markdown, methods in the order of their AUC."""
    methods, inversion = found["methods"], found["inversion"]
    rebuilt = f"PSNR {interval(inversion['psnr'])} dB; attribute agreement " + ", ".join(
        f"{judge} {interval(one, 3)}" for judge, one in inversion["agreement"].items()
    )
    parts = [
        f"Made by `{found['command']}`; seeds {found['seeds']}, judge {found['names']['judge']}, 95 % bootstrap intervals.",
        "## Inversion, before any edit",
        f"{rebuilt}." if inversion["psnr"] else "Nothing was inverted: the model drew each image from a known noise.",
        *(part for kind, own in (found["kinds"] or {"": found}).items() for part in _kind(own, kind, found["ours"])),
        *_concepts(found),
        *_few(found["few"]),
        *_two(found["two"]),
        "## What each costs",
        table(["method", "fit s", "shared s", "s an image", "fit calls", "calls an image"],
             [_costs(n, methods[n]) for n in _order(methods)]),
        "## Not applicable",
        "\n".join(f"- {name}: {one['why']}" for name, one in found["not_applicable"].items()) or "None.",
        "\n".join(f"- {name} to {concept}: {why}" for name, by in found["unfit"].items() for concept, why in by.items()),
        "## Failed",
        "\n".join(f"- {cell}: {why}" for cell, why in found["failed"].items()) or "None.",
    ]  # fmt: skip
    return "\n\n".join(part for part in parts if part) + "\n"


def _kind(found: Mapping[str, Any], kind: str, ours: str) -> list[str]:
    """The tables of one kind of concepts, or of all where there is one."""
    methods, stable, of = found["methods"], found["stability"], f", {kind}" if kind else ""
    order = _order(methods)
    parts = [
        f"## Methods{of}",
        table(["method", *(title for _, title in FIGURES), "cells"], [_method(n, methods[n], ours) for n in order]),
        _truth(found.get("truth")),
        f"## Place under each judge{of}",
        table(["method", *stable["ranks"]], [[n, *(f"{by[n]:g}" for by in stable["ranks"].values())] for n in order]),
        f"Spearman between two judges, mean: {interval(stable['mean'])}.",
        f"## Which figure orders methods as true EPR does{of}",
        "\n".join(f"- {key}: {interval(one)}" for key, one in found["orders"].items()),
    ]
    return [part for part in parts if part]


def _truth(truth: Mapping[str, Any] | None) -> str:
    """The true edit's areas in words, "" where there is none."""
    said = [f"{title} {interval(truth[key])}" for key, title in FIGURES if truth and key in truth] if truth else []
    return f"The true edit, faded in: {', '.join(said)}." if said else ""


def _concepts(found: Mapping[str, Any]) -> list[str]:
    """Each method on each concept, a table a figure."""
    names, by = list(found["concepts"]), found["concepts"]
    parts: list[str] = []
    for key, title in OF_CONCEPT:
        rows = [[n, *(interval(by[c]["methods"].get(n, {}).get(key)) for c in names)] for n in _order(found["methods"])]
        if key == "auc" and found["truth"]:
            rows.append(["*the true edit, faded in*", *(interval(by[c]["truth"]["auc"]) for c in names)])
        parts += [f"## {title}, concept by concept", table(["method", *names], rows)]
    return parts


def _few(few: Mapping[str, Any]) -> list[str]:
    """AUC by how many images a method learned from."""
    counts = sorted({int(count) for by in few.values() for count in by})
    rows = [[name, *(interval(by.get(str(count))) for count in counts)] for name, by in few.items()]
    return ["## AUC with few images", table(["method", *map(str, counts)], rows)] if few else []


def _two(two: Mapping[str, Any]) -> list[str]:
    """Which share of the images shows each of two concepts, edited alone and both at once."""
    parts: list[str] = []
    for pair, by in two.items():
        first, second = pair.split("+")
        titles = {"first_alone": f"{first}, alone", "second_alone": f"{second}, alone", "first": f"{first}, in both",
                  "second": f"{second}, in both", "both": "both shown", "distance": "distance of both"}  # fmt: skip
        rows = [[name, *(interval(one[key]) for key in titles)] for name, one in by.items()]
        parts += [f"## Two concepts at once: {first} and {second}", table(["method", *titles.values()], rows)]
    return parts


def _order(methods: Mapping[str, Any]) -> list[str]:
    return sorted(methods, key=lambda n: -(methods[n]["auc"]["value"] or 0.0))


def _method(name: str, one: Mapping[str, Any], ours: str) -> list[str]:
    shown = [one.get(f"versus_{ours}" if key == "versus" else key) for key, _ in FIGURES]
    return [name, *(interval(value) for value in shown), f"{one['cells']['done']}/{one['cells']['of']}"]


def _costs(name: str, one: Mapping[str, Any]) -> list[str]:
    seconds, calls = one["seconds"], one["model_calls"]
    return [name, f"{seconds['fit']:.1f}", f"{seconds['shared']:.0f}", f"{seconds['each']:.2f}",
            f"{calls['fit']:.0f}", f"{calls['each']:.1f}"]  # fmt: skip
