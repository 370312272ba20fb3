"""The stage that measures: every figure of metrics.json, from the saved images and readings alone; seeds can be pooled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from sparsight.concepts import cohesion, label_agreement, similarity
from sparsight.concepts.tally import mean_iou
from sparsight.errors import SparsightError
from sparsight.files import read_json, write_json
from sparsight.images import read_sheet
from sparsight.metrics import bootstrap, row_mean
from sparsight.pipeline.emergence.edits import METHODS
from sparsight.pipeline.emergence.layout import success
from sparsight.pipeline.emergence.reading import best_series, series, things
from sparsight.pipeline.emergence.run import short as short_site
from sparsight.pipeline.emergence.run import stream_name

if TYPE_CHECKING:
    from sparsight.concepts import ConceptDictionary
    from sparsight.pipeline.emergence.run import EmergenceRun


def evaluate_stage(run: EmergenceRun) -> None:
    """Write metrics.json."""
    write_json(run.folder / "metrics.json", pooled_metrics([run]))


def pooled_metrics(runs: Sequence[EmergenceRun]) -> dict[str, Any]:
    """metrics.json of one run, or of several that differ in their seed alone, whose images are then pooled.

    Raises `SparsightError` if the runs are of different recipes, or have not come to the stage style.
    """
    from sparsight.pipeline.run import versions

    require_alike(runs)
    first = runs[0]
    found: dict[str, Any] = {"experiment": "emergence", "names": dict(first.world.names), "versions": versions()}
    found["saes"] = saes(runs)
    found["composition"] = composition(runs)
    found["layout"] = layout(runs)
    found["style"] = style(runs)
    found["evolution"] = evolution(runs)
    found["identity"] = identity(first)
    found["calibration"] = calibration(runs)
    return {**found, "seeds": [run.recipe.seed for run in runs], **headline(first, found)}


def require_alike(runs: Sequence[EmergenceRun]) -> None:
    """Refuse runs that cannot be pooled."""
    for run in runs:
        for file in ("reading.json", "layout.json", "style.json"):
            if not (run.folder / file).exists():
                raise SparsightError(f"{run.folder} has no {file}: run its earlier stages first")
    asked = [what_was_done(run) for run in runs]
    for run, own in zip(runs, asked, strict=True):
        if different := [key for key in own if own[key] != asked[0][key]]:
            raise SparsightError(
                f"runs that are pooled must differ in their seed alone, but {run.folder} and {runs[0].folder} differ in "
                f"{different[0]!r}"
            )


def what_was_done(run: EmergenceRun) -> dict[str, Any]:
    """The recipe without what may differ between seeds, the edits as they were made and not as they were asked for."""
    plain = {k: v for k, v in run.recipe.plain().items() if k not in ("seed", "name", "threads", "calibrate")}
    return plain | {kind: read_json(run.folder / f"{kind}.json")["edit"] for kind in ("layout", "style")}


def saes(runs: Sequence[EmergenceRun]) -> dict[str, Any]:
    """Table 1: each SAE's metrics on held-out prompts by timestep, the mean over seeds."""
    found: dict[str, Any] = {}
    for stream in runs[0].streams():
        for k in runs[0].recipe.k:
            own = [read_json(run.folder / "saes" / f"{stream}.k{k}" / "metrics.json") for run in runs]
            found[f"{stream}.k{k}"] = {
                t: {name: sum(one[t][name] for one in own) / len(own) for name in own[0][t]} for t in own[0]
            }
    return found


def composition(runs: Sequence[EmergenceRun]) -> dict[str, Any]:
    """IoU of every way of reading, with intervals over the images of all runs."""
    tensors = [load_file(run.folder / "reading" / "iou.safetensors") for run in runs]
    images = torch.cat([one["image"] + 10_000_000 * place for place, one in enumerate(tensors)])
    readings = [read_json(run.folder / "reading.json")["readings"] for run in runs]
    found = {}
    for name, facts in readings[0].items():
        rows = torch.cat([one[name] for one in tensors])
        validation = [one[name].get("validation") for one in readings]
        figure = {**facts, **mean_iou(rows, images).to_dict(), "targets": len(rows)}
        found[name] = figure if None in validation else {**figure, "validation": sum(validation) / len(runs)}
    return found


def layout(runs: Sequence[EmergenceRun]) -> dict[str, Any]:
    """Success by stage and method, and how far the images moved."""
    told = [read_json(run.folder / "layout.json") for run in runs]
    found: dict[str, Any] = {"edit": told[0]["edit"], "chance": 0.25, "stages": {}}
    count = len(told[0]["objects"]) * told[0]["seeds"]
    plain = [sheet(run, "layout", "plain", count) for run in runs]
    found["unedited"] = figure([hits(r, t, tiled(p, t)) for r, t, p in zip(runs, told, plain, strict=True)])
    for stage in told[0]["stages"]:
        rows: dict[str, Any] = {"strength": [one["stages"][stage]["strength"] for one in told]}
        for method in METHODS:
            images = [sheet(run, "layout", f"{stage}.{method}", 4 * count) for run in runs]
            rate = [hits(r, t, x) for r, t, x in zip(runs, told, images, strict=True)]
            moved = [r.world.distance(tiled(p, t), x) for r, t, p, x in zip(runs, told, plain, images, strict=True)]
            rows[method] = {**figure(rate), "perceptual": figure(moved), "by_object": by_object(told[0], rate)}
        found["stages"][stage] = rows
    return found


def sheet(run: EmergenceRun, folder: str, name: str, count: int) -> Tensor:
    """The images that a stage saved under a name."""
    return read_sheet(run.folder / folder / f"{name}.png", count, run.model.image_size)


def tiled(plain: Tensor, told: dict[str, Any]) -> Tensor:
    """Unedited images (objects * seeds, ...) in the order of the edited ones: object, quadrant, seed."""
    seeds, quadrants = told["seeds"], len(told["quadrants"])
    return torch.cat([part.repeat(quadrants, 1, 1, 1) for part in plain.split(seeds)])


def hits(run: EmergenceRun, told: dict[str, Any], images: Tensor) -> Tensor:
    """Whether each image has its object in the quadrant that was asked for."""
    parts = images.split(told["seeds"] * len(told["quadrants"]))
    return torch.cat(
        [success(run, part, kind, told["seeds"]) for kind, part in zip(told["objects"], parts, strict=True)]
    )


def by_object(told: dict[str, Any], rates: Sequence[Tensor]) -> dict[str, float]:
    """Each object's success over all runs."""
    parts = [rate.split(told["seeds"] * len(told["quadrants"])) for rate in rates]
    return {kind: float(torch.cat([p[i] for p in parts]).mean()) for i, kind in enumerate(told["objects"])}


def style(runs: Sequence[EmergenceRun]) -> dict[str, Any]:
    """Table 5: success, rise of the similarity, share recognised as the style, distance, by stage, style and method."""
    told = [read_json(run.folder / "style.json") for run in runs]
    found: dict[str, Any] = {"edit": told[0]["edit"], "stages": {}}
    plain = [sheet(run, "style", "plain", told[0]["images"]) for run in runs]
    for stage in told[0]["stages"]:
        own: dict[str, Any] = {"strength": [one["stages"][stage]["strength"] for one in told], "styles": {}}
        every: dict[str, dict[str, list[Tensor]]] = {method: {} for method in METHODS}
        for name in told[0]["styles"]:
            own["styles"][name] = {}
            for method in METHODS:
                rows = painted(runs, plain, stage, name, method)
                own["styles"][name][method] = {key: figure([value]) for key, value in rows.items()}
                for key, value in rows.items():
                    every[method].setdefault(key, []).append(value)
        own |= {method: {key: figure(values) for key, values in rows.items()} for method, rows in every.items()}
        found["stages"][stage] = own
    return found


def painted(
    runs: Sequence[EmergenceRun], plain: Sequence[Tensor], stage: str, name: str, method: str
) -> dict[str, Tensor]:
    """Per-image figures of one style, method and stage, all runs in one."""
    found: dict[str, list[Tensor]] = {}
    for run, before in zip(runs, plain, strict=True):
        after = sheet(run, "style", f"{stage}.{name}.{method}", len(before))
        world = run.world
        old, new = world.similarity(before, name), world.similarity(after, name)
        rows = {
            "success": (new > old).float(), "before": old, "after": new, "recognised": world.recognised(after, name),
            "recognised_before": world.recognised(before, name), "perceptual": world.distance(before, after),
        }  # fmt: skip
        for key, value in rows.items():
            found.setdefault(key, []).append(value)
    return {key: torch.cat(values) for key, values in found.items()}


def figure(parts: Sequence[Tensor]) -> dict[str, Any]:
    """Mean and interval over all images of all parts."""
    return bootstrap(row_mean, torch.cat(list(parts)).double()).to_dict()


def evolution(runs: Sequence[EmergenceRun]) -> dict[str, Any]:
    """Table 3: cohesion and similarity of each dictionary's concepts, with and without those of a single label.

    Intervals are over the concepts of the first run; `seeds` has every run's value.
    """
    run, found = runs[0], {}
    for site in run.recipe.sites:
        for stage in run.steps_at:
            for k in run.recipe.k:
                name = f"{stream_name(site, stage, 'cond')}.k{k}"
                own = [purity(things(one, one.dictionary(name))) for one in runs]
                for key, figures in own[0].items():
                    figures["seeds"] = [one[key]["value"] for one in own]
                entries = len(things(run, run.dictionary(name)))
                found[name] = {"stage": stage, "site": site, "k": k, "entries": entries, **own[0]}
    return found


def purity(dictionary: ConceptDictionary) -> dict[str, dict[str, Any]]:
    """Cohesion and similarity of a dictionary, of all its concepts and of those of several labels."""
    return {
        f"{name}{'' if single else '_several'}": measure(dictionary, single=single).to_dict()
        for name, measure in (("cohesion", cohesion), ("similarity", similarity))
        for single in (True, False)
    }


def identity(run: EmergenceRun) -> dict[str, Any]:
    """Whether a latent means the same at two stages: of the SAE across time, and of the separate ones beside it."""
    found = {}
    for site in run.recipe.sites:
        for k in run.recipe.k:
            for one, two in pairwise(run.steps_at):
                apart = [f"{stream_name(site, stage, 'cond')}.k{k}" for stage in (one, two)]
                across = [f"{stream_name(site, 'all', 'cond')}.k{k}.t{run.stamp(stage)}" for stage in (one, two)]
                for kind, names in (("separate", apart), ("across", across if run.spread else [])):
                    if names:
                        pair = [things(run, run.dictionary(name)) for name in names]
                        facts = {"site": site, "k": k, "from": one, "to": two, "kind": kind}
                        agreed = label_agreement(pair[0], pair[1]).to_dict()
                        found[f"{kind}.{short_site(site)}.k{k}.{one}-{two}"] = {**facts, **agreed}
    return found


def calibration(runs: Sequence[EmergenceRun]) -> dict[str, list[dict[str, Any]]]:
    """What was tried on validation images before anything was tested, by kind of edit, of every run that did."""
    found: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        for kind in ("layout", "style"):
            path = run.folder / kind / "trials.json"
            rows = read_json(path)["rows"] if path.exists() else []
            found.setdefault(kind, []).extend({"seed": run.recipe.seed, **row} for row in rows)
    return found


def headline(run: EmergenceRun, found: dict[str, Any]) -> dict[str, Any]:
    """The three figures by stage that the experiment is about. How the composition is read is validation's choice."""
    readings = found["composition"]
    best = best_series(readings, run.steps_at)
    grid = run.model.site(best[1]).grid
    mean_map, chance = readings[f"mean_map.{grid[0]}x{grid[1]}"]["value"], readings["chance.shifted"]["value"]
    facts = {"mean_map": mean_map, "chance": chance, **dict(zip(("reading", "site", "k"), best, strict=True))}
    own = {f["stage"]: f for f in series(readings, best).values()}
    iou = {stage: {**short(own[stage]), **facts} for stage in run.steps_at}
    spatial = {s: {**short(f["concept"]), "chance": 0.25} for s, f in found["layout"]["stages"].items()}
    control = {s: f["random_directions"]["success"]["value"] for s, f in found["style"]["stages"].items()}
    styles = {s: {**short(f["concept"]["success"]), "chance": control[s]} for s, f in found["style"]["stages"].items()}
    return {"spatial_success": spatial, "global_success": styles, "composition_iou": iou}


def short(f: Mapping[str, Any]) -> dict[str, Any]:
    """The figure alone."""
    return {key: f[key] for key in ("value", "low", "high", "n")}
