"""The stage that measures: every figure of metrics.json, from the saved images alone."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from sparsight.errors import SparsightError
from sparsight.files import read_json, write_json
from sparsight.images import read_sheet
from sparsight.metrics import (
    bootstrap,
    clip_score,
    counterfactual_gain,
    directional_similarity,
    editing_precision,
    identity_similarity,
    inside_share,
    load_perceptual,
    precision_ratio,
    row_mean,
    spearman,
)  # fmt: skip

if TYPE_CHECKING:
    from sparsight.pipeline.casl.run import CaslRun
    from sparsight.worlds.avatars.world import AvatarsWorld

CLASSIFIER = "resnet"
NAMES = {
    "lpips": "feature distance over the world's VGG classifier (LPIPS-type, unweighted)",
    "identity": "the world's identity network", "clip": "the world's own CLIP", "distance": "pixel L2",
    "classifier": CLASSIFIER,
}  # fmt: skip


def evaluate_stage(run: CaslRun) -> None:
    """Write metrics.json."""
    write_json(run.folder / "metrics.json", pooled_metrics([run]))


def pooled_metrics(runs: Sequence[CaslRun]) -> dict[str, Any]:
    """metrics.json of one run, or of several that differ in their seed alone, whose images are then pooled.

    Pooled, an interval resamples all images of all seeds; SAE figures are means, a probe's interval spans the seeds'.
    Raises `SparsightError` if the runs are of different recipes or have not come to the stage steer.
    """
    from sparsight.pipeline.run import versions

    first = runs[0]
    _require_alike(runs)
    concepts = {}
    for done, name in enumerate(_steered(runs)):
        first.report.update(done, len(first.recipe.concepts), name)
        concepts[name] = _concept(runs, name)
    metrics = {
        "schema": 1,
        "seed": first.recipe.seed,
        "versions": versions(),
        "recipe": first.recipe.plain(),
        "names": NAMES,
        "sae": _mean([read_json(run.folder / "sae" / "metrics.json") for run in runs]),
        "concepts": concepts,
        "epr_vs_truth": _agreement(concepts),
    }
    return _finite(metrics)


def _require_alike(runs: Sequence[CaslRun]) -> None:
    plain = [{k: v for k, v in run.recipe.plain().items() if k not in ("seed", "name", "threads")} for run in runs]
    for run, other in zip(runs, plain, strict=True):
        for key, value in other.items():
            if value != plain[0][key]:
                raise SparsightError(f"{run.folder} and {runs[0].folder} differ in {key!r}: only seeds can be pooled")


def _steered(runs: Sequence[CaslRun]) -> list[str]:
    from sparsight.concepts import choose

    names = [c.name for c in choose(runs[0].recipe.concepts, runs[0].world.concepts)]
    for run in runs:
        for name in names:
            if not (run.folder / "concepts" / name / "steer.json").exists():
                raise SparsightError(f"{run.folder} holds no edits of {name!r}: run the stage steer first")
    return names


def _concept(runs: Sequence[CaslRun], name: str) -> dict[str, Any]:
    run, folders = runs[0], [run.folder / "concepts" / name for run in runs]
    steer = [read_json(folder / "steer.json") for folder in folders]
    sheet = read_json(folders[0] / "images" / "sheet.json")
    tile = (int(sheet["tile"][0]), int(sheet["tile"][1]))

    def images(method: str) -> Tensor:
        return torch.cat([read_sheet(f / "images" / f"{method}.png", sheet["count"], tile) for f in folders])

    judged = _Judged(run.world, name, images("original"), images("counterfactual"), run.recipe.seed)
    casl, methods = images("casl"), {}
    for method in steer[0]["methods"]:
        edit = images(method)
        methods[method] = {**judged.measure(edit), **_mean([one["methods"][method] for one in steer])}
        if method != "casl":
            methods[method]["versus_casl"] = judged.versus(casl, edit)
    variants = {name: methods.pop(name) for name in list(methods) if name.startswith("casl_")}
    return {
        "alpha": methods["casl"]["alpha"],
        "k": run.recipe.steer.k,
        "direction": 1,
        "exclude": list(run.world.related(name)),
        "latents": steer[0]["latents"],
        "methods": methods,
        "variants": variants,
        "choice": [one["choice"] for one in steer] if len(steer) > 1 else steer[0]["choice"],
        "candidates": [one["trials"] for one in steer] if len(steer) > 1 else steer[0]["trials"],
        "probe": _span([read_json(folder / "probe.json") for folder in folders]),
        "sweep": _sweep(run, folders[0], judged, tile),
    }


def _mean(records: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean of each number over the seeds; with one seed, the record itself."""
    return {
        key: value if len(records) == 1 else float(np.mean([r[key] for r in records]))
        for key, value in records[0].items()
    }


def _span(probes: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean accuracy over the seeds, with the lowest low and the highest high."""
    if len(probes) == 1 or any(p["top1"]["value"] is None for p in probes):
        return probes[0]
    return {
        key: {
            "value": float(np.mean([p[key]["value"] for p in probes])),
            "low": min(p[key]["low"] for p in probes),
            "high": max(p[key]["high"] for p in probes),
            "n": sum(p[key]["n"] for p in probes),
        }
        for key in probes[0]
    }


class _Judged:
    """The unedited test faces of one concept with everything that each edit is compared with."""

    def __init__(self, world: AvatarsWorld, attribute: str, original: Tensor, truth: Tensor, seed: int) -> None:
        self.world, self.attribute, self.original, self.truth, self.seed = world, attribute, original, truth, seed
        self.mask = (truth - original).abs().amax(1) > 0.15
        self.before = {name: _logits(judge, original) for name, judge in world.classifiers.items()}
        self.column = world.attributes.index(attribute)
        self.options: dict[str, Any] = {"exclude": world.related(attribute), "names": world.attributes, "seed": seed}
        self.perceptual = load_perceptual(lambda x: world.classifiers["vgg"].features(x), NAMES["lpips"])  # type: ignore[operator]

    def measure(self, edit: Tensor) -> dict[str, Any]:
        reports = {
            name: editing_precision(before, _logits(self.world.classifiers[name], edit), self.column, **self.options)
            for name, before in self.before.items()
        }
        found = reports[CLASSIFIER].to_dict()
        found["classifiers"] = {
            n: {"epr": r.epr.to_dict(), "true_epr": r.true_epr.to_dict()} for n, r in reports.items()
        }
        return {**found, **self._seen(edit), **self._true(edit)}

    @torch.no_grad()
    def _seen(self, edit: Tensor) -> dict[str, Any]:
        clip, concept = self.world.clip, self.world.concepts[self.attribute]
        before, after, (source, target) = (
            clip.image(self.original),
            clip.image(edit),
            clip.text([concept.source, concept.target]),
        )
        rows = {
            "lpips": self.perceptual(self.original, edit),
            "identity": identity_similarity(self.world.identity(self.original), self.world.identity(edit)),
            "clip": clip_score(after, target.expand_as(after)),
            "directional_clip": directional_similarity(before, after, source.expand_as(after), target.expand_as(after)),
        }
        return {
            name: bootstrap(row_mean, values.numpy().astype(np.float64), seed=self.seed).to_dict()
            for name, values in rows.items()
        }

    def _true(self, edit: Tensor) -> dict[str, Any]:
        gain = counterfactual_gain(edit, self.original, self.truth)
        inside = inside_share(edit, self.original, self.mask)
        return {"counterfactual_gain": gain.to_dict(seed=self.seed), "inside_share": inside.to_dict(seed=self.seed)}

    def versus(self, casl: Tensor, edit: Tensor) -> dict[str, Any]:
        judge = self.world.classifiers[CLASSIFIER]
        ratio = precision_ratio(
            self.before[CLASSIFIER], _logits(judge, casl), _logits(judge, edit), self.column, **self.options
        )
        return ratio.to_dict()

    def cell(self, edit: Tensor) -> tuple[float, float]:
        """EPR and flip rate of one cell of the sweep, on its first faces."""
        before = self.before[CLASSIFIER][: len(edit)]
        after = _logits(self.world.classifiers[CLASSIFIER], edit)
        report = editing_precision(before, after, self.column, n_resamples=1, **self.options)
        return report.epr.value, report.flip_rate.value


def _sweep(run: CaslRun, folder: Path, judged: _Judged, tile: tuple[int, int]) -> dict[str, Any]:
    config = run.recipe.steer
    count = min(config.sweep_images, config.test)
    cells = [
        [judged.cell(read_sheet(folder / "sweep" / f"k{k:03d}_a{a:03d}.png", count, tile)) for a in range(len(config.sweep_alphas))]
        for k in config.sweep_k
    ]  # fmt: skip
    return {
        "k": list(config.sweep_k), "alpha": list(config.sweep_alphas), "n": count,
        "epr": [[epr for epr, _ in row] for row in cells], "flip_rate": [[flips for _, flips in row] for row in cells],
    }  # fmt: skip


def _agreement(concepts: dict[str, Any]) -> dict[str, Any]:
    """Does EPR order the edits as the truth does? Over all concepts and methods."""
    methods = [m for concept in concepts.values() for m in concept["methods"].values()]
    found = {}
    for key, name in (("counterfactual_gain", "gain"), ("true_epr", "true_epr"), ("inside_share", "inside")):
        pairs = [(m["epr"]["value"], m[key]["value"]) for m in methods]
        kept = np.array([p for p in pairs if None not in p], dtype=np.float64).reshape(-1, 2)
        found[f"spearman_{name}"] = spearman(kept[:, 0], kept[:, 1]).to_dict()
    return found


@torch.no_grad()
def _logits(judge: torch.nn.Module, images: Tensor) -> Tensor:
    return judge(images)


def _finite(value: Any) -> Any:
    """NaN and infinity become null: JSON has neither."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]
    return json.loads(json.dumps(value)) if not isinstance(value, (int, str, bool, type(None))) else value
