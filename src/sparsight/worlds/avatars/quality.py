"""How good the world's models are, measured on held-out renders: the figures of docs/worlds.md.

Run it as `sparsight world check avatars`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sparsight.diffusion import DiffusionModel, Loop, invert, sample
from sparsight.metrics import attribute_agreement, psnr
from sparsight.pipeline.reporter import Reporter
from sparsight.steering.causal import class_differences, mean_difference_test
from sparsight.worlds.avatars.captions import ZERO_SHOT
from sparsight.worlds.avatars.faces import ATTRIBUTES
from sparsight.worlds.avatars.world import AvatarsWorld


@torch.no_grad()
def check(
    world: AvatarsWorld,
    report: Reporter,
    renders: int = 2000,
    inverted: int = 64,
    samples: int = 1000,
    precision: str = "fp32",
) -> dict[str, Any]:
    """Every quality figure of the world: classifiers, CLIP, inversion, samples, edits by class means."""
    model = DiffusionModel.load(world.model)
    model.precision = precision
    source = world.source("held-out")
    images, labels = source.batch(range(renders)), source.labels(range(renders))
    found: dict[str, Any] = {"n": {"renders": renders, "inverted": inverted, "samples": samples}}
    parts = 5 + len(world.classifiers)
    for done, (name, judge) in enumerate(world.classifiers.items()):
        report.update(done, parts, name)
        found[name] = _accuracy(_run(judge, images) > 0, labels)
    found["clip"] = _accuracy(zero_shot(world, images), labels)
    report.update(parts - 4, parts, "inversion")
    found["inversion"] = _inversion(world, model, images[:inverted])
    report.update(parts - 3, parts, "samples")
    found["samples"] = _samples(world, model, samples, labels)
    report.update(parts - 2, parts, "mean differences")
    found["mean_difference"] = _mean_differences(world, model, images[:256], labels[:256])
    report.update(parts, parts, "done")
    return found


def _run(judge: nn.Module, images: Tensor) -> Tensor:
    return torch.cat([judge(batch) for batch in images.split(128)])


def _accuracy(decisions: Tensor, labels: Tensor) -> dict[str, Any]:
    each = (decisions == labels).double().mean(0)
    worst = int(each.argmin())
    return {"mean": float(each.mean()), "worst": float(each[worst]), "worst_attribute": ATTRIBUTES[worst]}


def zero_shot(world: AvatarsWorld, images: Tensor) -> Tensor:
    """Decisions (n, attributes) of the CLIP between each attribute's two sentences."""
    towers = world.clip
    texts = [towers.text(list(ZERO_SHOT[name])) for name in ATTRIBUTES]
    embedded = torch.cat([towers.image(batch) for batch in images.split(128)])
    return torch.stack([(embedded @ pair.T).argmax(1) == 1 for pair in texts], dim=1)


def _inversion(world: AvatarsWorld, model: DiffusionModel, images: Tensor, steps: int = 100) -> dict[str, Any]:
    latents = model.encode(images)
    loop = Loop(steps=steps)
    back = model.decode(sample(model, invert(model, latents, loop), loop)).clamp(-1, 1)
    plain = model.decode(latents).clamp(-1, 1)
    judge = world.classifiers["resnet"]
    quality = psnr(images, back)
    return {
        "steps": steps, "psnr": float(quality.mean()), "psnr_worst": float(quality.min()),
        "kept": attribute_agreement(_run(judge, images), _run(judge, back)).to_dict(),
        "autoencoder_psnr": float(psnr(images, plain).mean()),
    }  # fmt: skip


def _samples(world: AvatarsWorld, model: DiffusionModel, count: int, labels: Tensor, steps: int = 50) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(count, *model.latent_shape, generator=generator)
    drawn = torch.cat(
        [model.decode(sample(model, batch, Loop(steps=steps))).clamp(-1, 1) for batch in noise.split(100)]
    )
    shares = (_run(world.classifiers["resnet"], drawn) > 0).double().mean(0)
    gaps = (shares - labels.double().mean(0)).abs()
    worst = int(gaps.argmax())
    return {
        "steps": steps, "valid": float(world.validity(drawn).double().mean()), "mean_gap": float(gaps.mean()),
        "worst_gap": float(gaps[worst]), "worst_attribute": ATTRIBUTES[worst],
    }  # fmt: skip


def _mean_differences(
    world: AvatarsWorld, model: DiffusionModel, images: Tensor, labels: Tensor, steps: int = 25, count: int = 16
) -> dict[str, Any]:
    """Share of `count` samples that take on each attribute when 1, 2 or 3 x the class difference is added at mid_block."""
    factors, judge = (1.0, 2.0, 3.0), world.classifiers["resnet"]
    differences = class_differences(model, "mid_block", images, labels, steps)
    noise = torch.randn(4 * count, *model.latent_shape, generator=torch.Generator().manual_seed(0))
    flipped = mean_difference_test(
        model, "mid_block", noise, differences, judge, factors, Loop(steps=steps, mode="plain"), count
    )
    best = flipped.amax(1)
    return {
        "site": "mid_block", "steps": steps, "n": count, "factors": list(factors),
        "flipped": {name: [float(v) for v in row] for name, row in zip(ATTRIBUTES, flipped, strict=True)},
        "attributes_at_half": int((best >= 0.5).sum()), "attributes": len(ATTRIBUTES),
    }  # fmt: skip
