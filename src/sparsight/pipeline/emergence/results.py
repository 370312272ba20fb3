"""Tables for docs/results: several seeds pooled into one JSON, and the page that shows it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparsight.markdown import interval, plain, table, write_tables
from sparsight.pipeline.emergence.calibrate import CHOSEN
from sparsight.pipeline.emergence.edits import METHODS
from sparsight.pipeline.emergence.evaluate import pooled_metrics
from sparsight.pipeline.emergence.reading import READ
from sparsight.pipeline.emergence.recipe import STAGES

if TYPE_CHECKING:
    from sparsight.pipeline.emergence.run import EmergenceRun


READ_BY = {"sae": "words", "evidence": "evidence"}


def write_results(runs: Sequence[EmergenceRun], out: Path, command: str) -> dict[str, Any]:
    """Write `out`.json and `out`.tables.md (tables only; the page around them is written by people)."""
    metrics = {**pooled_metrics(runs), "command": command}
    write_tables(out, metrics, tables(metrics))
    return metrics


def tables(metrics: Mapping[str, Any]) -> str:
    """The tables in Markdown."""
    parts = [
        f"Made by `{metrics['command']}`; seeds {metrics['seeds']}, 95 % bootstrap intervals over images.",
        "## Composition: mean IoU on test prompts, by block, stage and half", composition(metrics["composition"]),
        "## The same with other ways of reading", baselines(metrics["composition"]),
        "## One SAE across time", across(metrics["composition"], metrics["saes"]),
        "## Layout: share of objects in the quadrant that was asked for", layout(metrics["layout"]),
        "## Style", style(metrics["style"]),
        "## What calibration tried, on validation images", calibration(metrics["calibration"]),
        "## Cohesion, and similarity between concepts", evolution(metrics["evolution"]),
        "## Does a latent keep its meaning?", identity(metrics["identity"]),
        "## SAEs (Table 1): scaled MSE, explained variance in %", saes(metrics["saes"]),
    ]  # fmt: skip
    return "\n\n".join(parts) + "\n"


def composition(readings: Mapping[str, Any]) -> str:
    """A row for each way of reading, block, half and k."""
    mine = [f for f in readings.values() if f["kind"] in READ and f["stage"] in STAGES]
    keys = sorted(
        {(f["kind"], f["site"], f["half"], f["k"]) for f in mine}, key=lambda key: (READ.index(key[0]), *key[1:])
    )
    rows = []
    for key in keys:
        own = {f["stage"]: f for f in mine if (f["kind"], f["site"], f["half"], f["k"]) == key}
        rows.append([READ_BY[key[0]], key[1], key[2], str(key[3]), *(interval(own[stage], 3) for stage in STAGES)])
    return table(["read by", "site", "half", "k", *STAGES], rows)


def baselines(readings: Mapping[str, Any]) -> str:
    """Chance, mean maps, cross-attention, PCA."""
    rows = [[n, interval(f, 3)] for n, f in readings.items() if f["kind"] not in READ]
    return table(["reading", "IoU"], rows)


def across(readings: Mapping[str, Any], saes: Mapping[str, Any]) -> str:
    """The SAE across time by timestep, beside the separate ones of the same k where there is one."""
    apart = {(f["site"], f["k"], f["t"]): (name, f) for name, f in readings.items() if separate(f)}
    rows = []
    for name, own in readings.items():
        if own.get("stage") != "all" or own["kind"] != "sae":
            continue
        explained = [saes[name.rsplit(".t", 1)[0]][str(own["t"])]["explained_variance"]]
        beside, other = apart.get((own["site"], own["k"], own["t"]), ("", None))
        explained += [next(iter(saes[beside].values()))["explained_variance"]] if other else []
        cells = [interval(own, 3), interval(other, 3) if other else "-", *(f"{100 * e:.1f}" for e in explained), "-"][
            :4
        ]
        rows.append([own["site"], str(own["k"]), str(own["t"]), *cells])
    return table(["site", "k", "t", "IoU", "IoU, separate SAE", "EV %", "EV %, separate"], rows)


def separate(f: Mapping[str, Any]) -> bool:
    """Whether a reading is of an SAE of one stage, on the half that sees the prompt."""
    return f["kind"] == "sae" and f["half"] == "cond" and f["stage"] in STAGES


def layout(found: Mapping[str, Any]) -> str:
    """Success by stage and method, with the distance from the unedited image."""
    rows = []
    for stage, own in found["stages"].items():
        strengths = ", ".join(f"{s:g}" for s in own["strength"])
        far = own["concept"]["perceptual"]
        rows.append([stage, strengths, *(interval(own[method], 3) for method in METHODS), interval(far, 3)])
    head = table(["stage", "strength", *METHODS, "distance (concept)"], rows)
    return f"{head}\n\nUnedited images: {interval(found['unedited'], 3)}; by chance 0.25. The edit: {found['edit']}"


def style(found: Mapping[str, Any]) -> str:
    """Success, similarity, recognition and distance by stage and method, and success by style."""
    rows = []
    for stage, own in found["stages"].items():
        for method in METHODS:
            f = own[method]
            keys = ("success", "before", "after", "recognised_before", "recognised", "perceptual")
            rows.append([stage, method, *(interval(f[key], 3) for key in keys)])
    head = ["stage", "method", "success", "CLIP before", "CLIP after", "recognised before", "recognised", "distance"]
    names = list(next(iter(found["stages"].values()))["styles"])
    each = [
        [s, *(interval(own["styles"][n]["concept"]["success"], 3) for n in names)] for s, own in found["stages"].items()
    ]
    return f"{table(head, rows)}\n\n{table(['stage', *names], each)}\n\nThe edit: {found['edit']}"


def calibration(found: Mapping[str, Any]) -> str:
    """Success of every configuration by stage, each at the strength that was best at the stage it was chosen at."""
    rows = [
        [kind, *(str(row[key]) for key in CHOSEN), f"{row['strength']:g}", *(plain(row["stages"].get(s)) for s in STAGES),
         str(row["n"])]
        for kind, own in found.items() for row in own
    ]  # fmt: skip
    return table(["edit", *CHOSEN, "strength", *STAGES, "images"], rows) if rows else "Nothing: the recipe says it all."


def evolution(found: Mapping[str, Any]) -> str:
    """A row for each dictionary, with and without concepts of a single label."""
    keys = ("cohesion", "cohesion_several", "similarity", "similarity_several")
    rows = [
        [f["site"], f["stage"], str(f["k"]), str(f["entries"]), *(interval(f[key], 3) for key in keys)]
        for f in found.values()
    ]
    return table(["site", "stage", "k", "entries", *keys], rows)


def identity(found: Mapping[str, Any]) -> str:
    """Share of latents whose commonest label is the same at two stages."""
    rows = [
        [
            f["site"],
            str(f["k"]),
            f"{f['from']} to {f['to']}",
            f["kind"],
            str(f["n"]),
            interval(f, 3),
            plain(f["chance"], 3),
        ]
        for f in found.values()
    ]
    return table(["site", "k", "stages", "SAEs", "latents", "same label", "by chance"], rows)


def saes(found: Mapping[str, Any]) -> str:
    """The paper's two metrics for every SAE and timestep."""
    rows = []
    for name, stamps in found.items():
        for t, own in stamps.items():
            explained = 100 * own["explained_variance"]
            rows.append(
                [name, t, f"{own['scaled_mse']:.4f}", f"{explained:.1f}", f"{own['l0']:.1f}", f"{own['dead']:.1%}"]
            )
    return table(["SAE", "t", "scaled MSE", "EV %", "L0", "dead"], rows)
