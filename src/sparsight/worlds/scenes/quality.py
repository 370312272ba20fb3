"""How good the models of `scenes` are, on held-out renders and prompts: the figures of docs/worlds.md.

Run it as `sparsight world check scenes`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sparsight.metrics import psnr
from sparsight.pipeline.reporter import Reporter
from sparsight.worlds.scenes.annotators import segments
from sparsight.worlds.scenes.causality import swap_table
from sparsight.worlds.scenes.clip import NAMES
from sparsight.worlds.scenes.data import TAGS, tags_of
from sparsight.worlds.scenes.generate import GUIDANCE, STEPS, generate
from sparsight.worlds.scenes.judges import background_of, style_of
from sparsight.worlds.scenes.scene import BACKGROUNDS, KINDS, STYLES, Scene
from sparsight.worlds.scenes.world import ScenesWorld

FOUND = 40  # pixels: an object of which less is seen does not count as found


@torch.no_grad()
def check(
    world: ScenesWorld, report: Reporter, renders: int = 1000, samples: int = 200, swapped: int = 32,
    guidances: tuple[float, ...] = (GUIDANCE,), precision: str = "fp32",
) -> dict[str, Any]:  # fmt: skip
    """Every quality figure of the world; `swapped` = 0 leaves the causal table out."""
    source = world.source("held-out")
    images, truth = source.batch(range(renders)), source.segments(range(renders))
    scenes = [source.scene(n) for n in range(renders)]
    found: dict[str, Any] = {"n": {"renders": renders, "samples": samples, "swapped": swapped}}
    report.update(0, 4, "annotators")
    found["renders"] = judge_renders(world, images, truth, scenes)
    report.update(1, 4, "autoencoder")
    found["autoencoder"] = _autoencoder(world, images[:256], truth[:256])
    found["samples"] = {}
    for guidance in guidances:
        report.update(2, 4, f"samples at guidance {guidance:g}")
        found["samples"][f"{guidance:g}"] = _samples(world, samples, guidance, precision == "bf16")
    report.update(3, 4, "swaps")
    if swapped:
        found["swaps"] = swap_table(world, report, swapped, bf16=precision == "bf16")
    report.update(4, 4, "done")
    return found


def judge_renders(world: ScenesWorld, images: Tensor, truth: Tensor, scenes: list[Scene]) -> dict[str, float]:
    """The annotators and the CLIP on images whose truth is known."""
    tags = torch.tensor([[tag in tags_of(scene) for tag in TAGS] for scene in scenes])
    styles = torch.tensor([STYLES.index(scene.style) for scene in scenes])
    tagged = torch.cat([world.tagger(pixel_values=part).logits for part in images.split(128)]) > 0
    return {
        "segmenter_iou": mean_iou(segments(world.segmenter, images), truth),
        "tagger_accuracy": float((tagged == tags).double().mean()),
        "tagger_all_right": float((tagged == tags).all(1).double().mean()),
        "style_accuracy": float((style_of(world, images) == styles).double().mean()),
        **_clip(world, images, tags, styles),
    }


def mean_iou(found: Tensor, truth: Tensor) -> float:
    """Intersection over union of every object that is there, segments (B, 64, 64) against the truth; their mean."""
    values = []
    for kind in range(1, len(KINDS) + 1):
        there = (truth == kind).flatten(1).any(1)
        a, b = (found[there] == kind).flatten(1), (truth[there] == kind).flatten(1)
        values.append((a & b).sum(1) / (a | b).sum(1))
    return float(torch.cat(values).double().mean())


def _clip(world: ScenesWorld, images: Tensor, tags: Tensor, styles: Tensor) -> dict[str, float]:
    """Zero-shot by short names: the style, the background, and whether the best noun is one that is there."""
    embedded = torch.cat([world.clip.image(part) for part in images.split(128)])
    best = [(embedded @ world.clip.text(names).T).argmax(1) for names in NAMES]
    rows = torch.arange(len(images))
    return {
        "clip_best_noun": float(tags[rows, best[0]].double().mean()),
        "clip_background": float(tags[rows, len(KINDS) + best[1]].double().mean()),
        "clip_style": float((best[2] == styles).double().mean()),
    }


def _autoencoder(world: ScenesWorld, images: Tensor, truth: Tensor) -> dict[str, float]:
    vae = world.pipeline().vae
    back = torch.cat([vae.decode(vae.encode(p).latent_dist.mean).sample for p in images.split(64)]).clamp(-1, 1)
    return {"psnr": float(psnr(images, back).mean()), "segmenter_iou": mean_iou(segments(world.segmenter, back), truth)}


def _samples(world: ScenesWorld, count: int, guidance: float, bf16: bool, batch: int = 50) -> dict[str, Any]:
    """Prompts of held-out scenes from fresh noise: are the named objects, the background and the style there?"""
    pipeline, source = world.pipeline(), world.source("held-out")
    shape = (pipeline.unet.config.in_channels, *(pipeline.unet.config.sample_size,) * 2)
    noise = torch.randn(count, *shape, generator=torch.Generator().manual_seed(0))
    drawn = torch.cat([
        generate(pipeline, source.prompts(part.tolist()), noise[part], guidance=guidance, bf16=bf16)
        for part in torch.arange(count).split(batch)
    ])  # fmt: skip
    return {"guidance": guidance, "steps": STEPS} | judge_samples(world, drawn, [source.scene(n) for n in range(count)])


def judge_samples(world: ScenesWorld, drawn: Tensor, scenes: list[Scene]) -> dict[str, Any]:
    """Shares of named objects found, of scenes with all of them and none else, of styles and backgrounds recognised."""
    parts = segments(world.segmenter, drawn)
    areas = torch.stack([(parts == kind).flatten(1).sum(1) for kind in range(1, len(KINDS) + 1)], dim=1)
    there = areas >= FOUND
    named = torch.tensor([[kind in tags_of(scene) for kind in KINDS] for scene in scenes])
    styles = torch.tensor([STYLES.index(scene.style) for scene in scenes])
    grounds = torch.tensor([BACKGROUNDS.index(scene.background) for scene in scenes])
    right = style_of(world, drawn) == styles
    return {
        "objects_found": float(there[named].double().mean()),
        "objects_by_kind": {kind: float(there[named[:, i], i].double().mean()) for i, kind in enumerate(KINDS)},
        "unnamed_objects_per_image": float((there & ~named).sum(1).double().mean()),
        "all_right": float((there == named).all(1).double().mean()),
        "styles_recognised": float(right.double().mean()),
        "styles_by_name": {style: float(right[styles == i].double().mean()) for i, style in enumerate(STYLES)},
        "backgrounds_recognised": float((background_of(world, drawn) == grounds).double().mean()),
        "n": len(scenes), "objects": int(named.sum()),
    }  # fmt: skip
