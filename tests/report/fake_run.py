"""A run folder with random but plausible numbers, so that the page can be tested (and looked at) without a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

CONTROLS = ("random_latent", "random_direction", "decoder_atom", "mean_difference", "no_sae")
METHODS = ("casl", *CONTROLS)
ALPHAS = [0, 16, 32, 64, 96, 128, 192]
OTHERS = ("Mouth_Slightly_Open", "Beard", "Arched_Eyebrows", "Long_Hair", "Pale_Skin")
TILE = 64


def interval(rng: np.random.Generator, value: float, spread: float = 0.15, n: int = 32, **extra: Any) -> dict[str, Any]:
    low, high = value - abs(value) * spread * rng.uniform(0.6, 1.4), value + abs(value) * spread * rng.uniform(0.7, 1.9)
    return {"value": float(value), "low": float(low), "high": float(high), "n": n, **extra}


def method_figures(rng: np.random.Generator, method: str, strength: float) -> dict[str, Any]:
    epr = float(rng.lognormal(np.log(4.2 if method == "casl" else strength), 0.22))
    figures = {
        "epr": interval(rng, epr),
        "true_epr": interval(rng, epr * 2.3, 0.4),
        "signed_change": interval(rng, epr - 1.2),
        "flip_rate": interval(rng, min(0.97, epr / 5), 0.1, n=19),
        "worst_damage": {"name": str(rng.choice(OTHERS)), "change": interval(rng, 2.4 / epr), "flips": 0.06},
        "lpips": interval(rng, 0.4 / epr),
        "identity": interval(rng, 1 - 0.3 / epr, 0.04),
        "clip": interval(rng, 22 + epr, 0.03),
        "directional_clip": interval(rng, 0.05 * epr),
        "counterfactual_gain": interval(rng, 0.14 * epr - 0.3 + rng.normal(0, 0.08), 0.2, n=30, excluded=2),
        "inside_share": interval(rng, min(0.9, 0.16 * epr), 0.08, n=30, excluded=2),
        "strength": 0.21,
        "alpha": 64.0 if method == "casl" else 12.0,
        "classifiers": {
            net: {"epr": interval(rng, epr * f), "true_epr": interval(rng, epr * 2 * f)}
            for net, f in (("resnet", 1.0), ("mobilenetv2", 0.8), ("vgg", 1.3), ("vit", 0.9))
        },
    }
    figures["classifiers"]["resnet"]["epr"] = figures["epr"]
    return figures


def sweep(rng: np.random.Generator) -> dict[str, Any]:
    ks, alphas = [1, 2, 4, 8, 16], [16.0, 32.0, 64.0, 96.0, 128.0, 192.0]
    epr = [[4.4 / (1 + 0.14 * (k - 1) * a / 64) + rng.normal(0, 0.1) for a in alphas] for k in ks]
    flip = [[min(1.0, 0.1 + 0.006 * a * (1 + 0.1 * k)) for a in alphas] for k in ks]
    return {"k": ks, "alpha": alphas, "epr": epr, "flip_rate": flip, "n": 32}


def concept_figures(rng: np.random.Generator) -> dict[str, Any]:
    levels = dict(zip(CONTROLS, (0.8, 0.6, 2.3, 2.9, 1.9), strict=True))
    methods = {m: method_figures(rng, m, levels.get(m, 0)) for m in METHODS}
    for m in CONTROLS:
        methods[m]["versus_casl"] = interval(rng, methods["casl"]["epr"]["value"] / methods[m]["epr"]["value"], 0.13)
    probe = {
        f"top{k}": interval(rng, v, 0.02, n=160)
        for k, v in zip((1, 2, 4, 8, 16), (0.7, 0.79, 0.88, 0.94, 0.97), strict=True)
    }
    return {
        "alpha": 64.0, "k": 1, "direction": 1, "exclude": ["Mouth_Slightly_Open"], "latents": [int(rng.integers(8192))],
        "methods": methods, "probe": probe | {"shuffled": interval(rng, 0.51, 0.04, n=160)}, "sweep": sweep(rng),
    }  # fmt: skip


def fake_metrics(concepts: tuple[str, ...], seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {
        "schema": 1,
        "seed": 0,
        "versions": {"sparsight": "0.1.0", "torch": "2.13.0"},
        "recipe": {"name": "avatars", "model": "worlds/avatars", "site": "mid_block", "sae": {"expansion": 16}},
        "names": {
            "lpips": "VGG perceptual distance (LPIPS-type, unweighted)", "identity": "avatar identity network",
            "clip": "avatar towers", "distance": "pixel L2", "classifier": "resnet",
        },
        "sae": {"expansion": 32, "mse": 0.0123, "cosine": 0.9931, "fve": 0.978, "l0": 41.7, "dar": 0.0051, "dead": 0.021},
        "concepts": {name: concept_figures(rng) for name in concepts},
        "epr_vs_truth": {
            "spearman_gain": interval(rng, 0.81, 0.1, n=36), "spearman_true_epr": interval(rng, 0.88, 0.07, n=36),
            "spearman_inside": interval(rng, 0.74, 0.12, n=36),
        },
    }  # fmt: skip


def sheet(path: Path, tiles: list[np.ndarray]) -> None:
    rows = -(-len(tiles) // 8)
    side = tiles[0].shape[0]
    pixels = np.zeros((rows * side, 8 * side, 3), np.uint8)
    for i, tile in enumerate(tiles):
        pixels[i // 8 * side : i // 8 * side + side, i % 8 * side : i % 8 * side + side] = tile
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def plain_faces(attribute: str, count: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Quick stand-ins for faces: gradients, and the same with a bright patch."""
    ramp = np.linspace(0, 255, TILE, dtype=np.uint8)
    faces = [np.stack([ramp[None].repeat(TILE, 0), ramp[:, None].repeat(TILE, 1), np.full((TILE, TILE), 9 * i, np.uint8)], -1)
             for i in range(count)]  # fmt: skip
    edited = [face.copy() for face in faces]
    for face in edited:
        face[40:52, 20:44] = 250
    return faces, edited


def avatar_faces(attribute: str, count: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Faces that lack `attribute`, and the same faces with it."""
    from sparsight.worlds.avatars.faces import attributes, counterfactual, sample_face
    from sparsight.worlds.avatars.render import render

    drawn = [f for i in range(400) if not attributes(f := sample_face(7, i))[attribute]]
    pairs = [(f, other) for f in drawn if (other := counterfactual(f, attribute, True)) is not None][:count]
    return [render(f) for f, _ in pairs], [render(other) for _, other in pairs]


def write_images(run: Path, concept: str, faces: Any, rng: np.random.Generator, count: int) -> None:
    folder, (before, truth) = run / "concepts" / concept, faces(concept, count)

    def mix(share: float, noise: float) -> list[np.ndarray]:
        pairs = zip(before, truth, strict=True)
        blends = (b * (1 - share) + t * share + rng.normal(0, noise, b.shape) for b, t in pairs)
        return [np.clip(blend, 0, 255).astype(np.uint8) for blend in blends]

    sheet(folder / "images/original.png", before)
    sheet(folder / "images/counterfactual.png", truth)
    for i, method in enumerate(METHODS):
        sheet(folder / f"images/{method}.png", mix((0.9, 0.02, 0.1, 0.6, 0.7, 0.5)[i], 2 + 2 * i))
    (folder / "images/sheet.json").write_text(json.dumps({"tile": [TILE, TILE], "columns": 8, "count": count}))
    for i, alpha in enumerate(ALPHAS):
        sheet(folder / f"slider/{i:03d}.png", mix(min(1.0, alpha / 90), 2)[:8])
    (folder / "slider.json").write_text(json.dumps({"alphas": ALPHAS, "chosen": 64, "count": 8}))
    write_latents(folder, truth, rng)


def write_latents(folder: Path, faces: list[np.ndarray], rng: np.random.Generator) -> None:
    y, x = np.mgrid[0:8, 0:8]
    entries = []
    for rank in range(1, 5):
        tops = []
        for i in range(8):
            heat = np.exp(-((y - 5.4 - rng.normal(0, 0.3)) ** 2 + (x - 3.5 - rng.normal(0, 0.5)) ** 2) / (1 + rank))
            peak = 4.0 - 0.2 * i
            tops.append({"image": i, "activation": peak, "map": (heat * peak).round(3).tolist()})
        facts = {"rank": rank, "latent": int(rng.integers(8192)), "score": 0.9 / rank, "density": 0.011 * rank}
        entries.append(facts | {"top": tops})
        sheet(folder / f"latents/{rank:03d}.png", [faces[(i + rank) % len(faces)] for i in range(8)])
    (folder / "latents.json").write_text(json.dumps(entries))


def write_log(run: Path) -> None:
    lines = []
    for step in range(100, 20001, 100):
        t = step / 20000
        figures = {"loss": 2 * np.exp(-4 * t) + 0.3, "mse": 0.4 * np.exp(-5 * t) + 0.012, "dar": 0.005}
        figures |= {
            "l0": 41 + 260 * np.exp(-6 * t),
            "fve": 0.98 - 0.5 * np.exp(-5 * t),
            "dead": 0.02 + 0.1 * t * (1 - t),
        }
        lines.append({"step": step, **figures})
        if step % 2000 == 0:
            lines[-1]["val_fve"] = lines[-1]["fve"] - 0.01
    (run / "sae").mkdir(parents=True, exist_ok=True)
    (run / "sae/log.jsonl").write_text("\n".join(map(json.dumps, lines)) + '\n{"step": 20')
    (run / "sae/config.json").write_text(json.dumps({"d_in": 256, "d_sae": 8192}))


def fake_run(
    run: Path, concepts: tuple[str, ...] = ("Smiling", "Eyeglasses"), faces: Any = plain_faces, count: int = 16
) -> Path:
    """A whole run folder at `run`."""
    run.mkdir(parents=True, exist_ok=True)
    (run / "metrics.json").write_text(json.dumps(fake_metrics(concepts), indent=2))
    (run / "recipe.yaml").write_text("name: avatars\nmodel: worlds/avatars\nsite: mid_block\nsae:\n  expansion: 32\n")
    seconds = {"harvest": 212.4, "sae": 640.2, "align": 80.1, "evaluate": 301.7}
    facts = {"command": "sparsight run avatars", "seconds": seconds, "versions": {"diffusers": "0.35"}}
    (run / "run.json").write_text(json.dumps(facts))
    write_log(run)
    for i, concept in enumerate(concepts):
        write_images(run, concept, faces, np.random.default_rng(i), count)
    return run
