"""An emergence run folder with random numbers and plain pictures, so that its page can be tested without a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from report.fake_run import interval, sheet

STAGES = {"early": 925, "middle": 463, "final": 1}
SITES = ("mid_block.attentions.0:update", "up_blocks.1.attentions.0:update")
METHODS = ("concept", "random_latents", "random_directions")
OBJECTS, STYLES, SEEDS, IMAGES, SIDE = ("cat", "ice cream"), ("night", "pencil"), 2, 5, 16


def stream(site: str, stage: str, half: str) -> str:
    return f"{site.replace(':', '-')}.{stage}.{half}"


def composition(rng: np.random.Generator, sites: tuple[str, ...], ks: tuple[int, ...], between: bool) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for site in sites:
        for k in ks:
            base = {"site": site, "k": k, "kind": "sae", "threshold": 0.25, "targets": 9}
            for stage, t in STAGES.items():
                for half in ("cond", "uncond"):
                    found[f"{stream(site, stage, half)}.k{k}"] = {
                        **base,
                        **facts(rng),
                        "stage": stage,
                        "half": half,
                        "t": t,
                    }
            for t in (925, 500, 1) if between else ():
                name = f"{stream(site, 'all', 'cond')}.k{k}.t{t}"
                found[name] = {**base, **facts(rng), "stage": "all", "half": "cond", "t": t}
        for stage in STAGES:
            pca = {"site": site, "stage": stage, "half": "cond", "k": ks[0], "kind": "pca"}
            found[f"pca.{stream(site, stage, 'cond')}.k{ks[0]}"] = {**facts(rng), **pca}
    for stage in STAGES:
        found[f"attention.{stage}"] = {**facts(rng), "stage": stage, "kind": "attention"}
    found["mean_map.8x8"] = {**facts(rng), "kind": "mean map"}
    return found | {"chance.shifted": {**facts(rng, 0.03), "kind": "chance"}}


def facts(rng: np.random.Generator, about: float = 0.2) -> dict[str, Any]:
    return interval(rng, about * rng.uniform(0.5, 1.5))


def layout(rng: np.random.Generator, site: str) -> dict[str, Any]:
    stages: dict[str, Any] = {}
    for stage in STAGES:
        stages[stage] = {"strength": [2.0]} | {
            m: {**facts(rng, 0.4), "perceptual": facts(rng), "by_object": {o: rng.uniform() for o in OBJECTS}}
            for m in METHODS
        }
    edit = {
        "site": site,
        "k": 10,
        "normaliser": "norm",
        "scope": "cond",
        "by": "entries",
        "share": 0.0,
        "most": 0,
        "test": SEEDS,
    }
    return {"edit": edit, "chance": 0.25, "stages": stages, "unedited": facts(rng, 0.1)}


def style(rng: np.random.Generator, site: str) -> dict[str, Any]:
    def figures() -> dict[str, Any]:
        keys = ("success", "before", "after", "recognised", "recognised_before", "perceptual")
        return {key: facts(rng, 0.4) for key in keys}

    stages = {
        stage: {"strength": [1.0], "styles": {s: {m: figures() for m in METHODS} for s in STYLES}}
        | {m: figures() for m in METHODS}
        for stage in STAGES
    }
    return {"edit": {"site": site, "k": 10, "normaliser": "norm", "scope": "cond"}, "stages": stages}


def fake_metrics(
    sites: tuple[str, ...] = SITES, ks: tuple[int, ...] = (10, 20), between: bool = True
) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    read, moved, painted = composition(rng, sites, ks, between), layout(rng, sites[0]), style(rng, sites[0])
    sae = {"scaled_mse": 0.13, "explained_variance": 0.86, "l0": 10.0, "dead": 0.2}
    names = [n for n, f in read.items() if f["kind"] == "sae" and f["stage"] != "all"]
    across = [f"{stream(s, 'all', 'cond')}.k{k}" for s in sites for k in ks] if between else []
    evolution = {
        f"{stream(s, stage, 'cond')}.k{k}": {"stage": stage, "site": s, "k": k, "entries": 9}
        | {key: facts(rng, 0.7) for key in ("cohesion", "cohesion_several", "similarity", "similarity_several")}
        for s in sites for stage in STAGES for k in ks
    }  # fmt: skip
    best = {
        "mean_map": read["mean_map.8x8"]["value"],
        "chance": read["chance.shifted"]["value"],
        "site": sites[0],
        "k": ks[0],
    }
    return {
        "experiment": "emergence", "names": {"localiser": "the world's segmenter"}, "versions": {"torch": "2.13.0"},
        "saes": {n: {str(read[n]["t"]): sae} for n in names} | {n: {t: sae for t in ("925", "500", "1")} for n in across},
        "composition": read, "layout": moved, "style": painted, "evolution": evolution, "seeds": [0],
        "composition_iou": {s: {**read[f"{stream(sites[0], s, 'cond')}.k{ks[0]}"], **best} for s in STAGES},
        "spatial_success": {s: {**facts(rng, 0.6), "chance": 0.25} for s in STAGES},
        "global_success": {s: {**facts(rng, 0.6), "chance": 0.5} for s in STAGES},
    }  # fmt: skip


def pictures(rng: np.random.Generator, count: int) -> list[np.ndarray]:
    return [np.full((SIDE, SIDE, 3), rng.integers(0, 255, 3), np.uint8) for _ in range(count)]


def write_gallery(run: Path, rng: np.random.Generator) -> None:
    moments = [{"reading": "x", "t": t, "step": i + 1, "threshold": 0.25} for i, t in enumerate((925, 500, 1))]
    rows = [{"image": n, "prompt": "a cat and a car", "nouns": ["cat", "car"]} for n in (3, 4)]
    film = {"site": SITES[0], "k": 10, "rule": "the first test images", "colours": ["#2f7fc1", "#e08a1e"]}
    latent = {"latent": 7, "objects": 12, "labels": [["cat", 9], ["car", 3]],
              "top": [{"image": n, "map": [[0.0, 1.5], [0.5, 0.0]]} for n in (0, 2)]}  # fmt: skip
    stages = {stage: {"t": t, "latents": [latent]} for stage, t in STAGES.items()}
    told = {"film": {**film, "tile": [SIDE, SIDE], "moments": moments, "rows": rows},
            "latents": {"site": SITES[0], "k": 10, "stages": stages}}  # fmt: skip
    (run / "gallery").mkdir(parents=True)
    (run / "gallery/gallery.json").write_text(json.dumps(told))
    pixels = rng.integers(0, 255, (2 * SIDE, 4 * SIDE, 4), np.uint8)
    Image.fromarray(pixels).save(run / "gallery/film.png")


def write_edits(run: Path, rng: np.random.Generator) -> None:
    quadrants = ["top-left", "top-right", "bottom-left", "bottom-right"]
    told = {"objects": list(OBJECTS), "quadrants": quadrants, "seeds": SEEDS, "stages": {s: {} for s in STAGES}}
    (run / "layout.json").write_text(json.dumps(told))
    sheet(run / "layout/plain.png", pictures(rng, len(OBJECTS) * SEEDS))
    (run / "style.json").write_text(json.dumps({"styles": STYLES, "images": IMAGES, "stages": {s: {} for s in STAGES}}))
    sheet(run / "style/plain.png", pictures(rng, IMAGES))
    for stage in STAGES:
        for method in METHODS:
            sheet(run / f"layout/{stage}.{method}.png", pictures(rng, 4 * len(OBJECTS) * SEEDS))
            for name in STYLES:
                sheet(run / f"style/{stage}.{name}.{method}.png", pictures(rng, IMAGES))


def fake_run(run: Path, **wanted: Any) -> Path:
    """A whole run folder at `run`; `wanted` as in `fake_metrics`."""
    rng = np.random.default_rng(1)
    run.mkdir(parents=True, exist_ok=True)
    (run / "metrics.json").write_text(json.dumps(fake_metrics(**wanted)))
    recipe = "experiment: emergence\nname: scenes\nworld: scenes\nseed: 0\nprompts: {train: 9, held_out: 3}\n"
    recipe += "sampling: {steps: 15, guidance: 7.5}\n"
    (run / "recipe.yaml").write_text(recipe)
    (run / "run.json").write_text(json.dumps({"command": "sparsight run scenes", "seconds": {"harvest": 12.5}}))
    (run / "images").mkdir()
    for i, image in enumerate(pictures(rng, IMAGES)):
        Image.fromarray(image).save(run / "images" / f"{i:08d}.png")
    write_gallery(run, rng)
    write_edits(run, rng)
    return run
