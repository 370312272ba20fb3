"""What listening to a model and steering it cost, over running it.

    python benchmarks/pipeline.py --model worlds/avatars --json pipeline.json

Three questions, each answered by a ratio of times within one round: capture and steering over plain sampling (goal: at
most 1.03), 18 streams over one stream in the same pass (goal: at most 1.5), and reading a site with the early stop over
running the model whole.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from timing import ratio, rounds, say

from sparsight.activations import Stream, harvest_streams
from sparsight.diffusion import DiffusionModel, Loop, sample
from sparsight.sae import SAE, SAEConfig
from sparsight.steering import LatentSteering, Window


class RandomImages:
    """Images of noise, made at once: the model is what is timed."""

    name = "random"

    def __init__(self, count: int, size: tuple[int, int]) -> None:
        self.pixels = torch.rand(count, 3, *size, generator=torch.Generator().manual_seed(0)) * 2 - 1

    def __len__(self) -> int:
        return len(self.pixels)

    def batch(self, numbers: Any) -> torch.Tensor:
        return self.pixels[list(numbers)]


def sampling(model: DiffusionModel, args: argparse.Namespace) -> dict[str, Callable[[], Any]]:
    """Plain sampling, the same with a tape running, the same with a latent of an SAE steered at every step."""
    noise, loop = torch.randn(args.batch_size, *model.latent_shape), Loop(steps=args.steps, mode="plain")
    noise = noise.to(model.device)
    channels = model.site(args.site).channels
    sae = SAE(SAEConfig(channels, 16 * channels), seed=0).to(model.device)
    direction = torch.full((1, channels), 1e-3, device=model.device)
    steer = LatentSteering(args.site, 1.0, Window(0, 999), sae=sae, latents=(0,), directions=direction)

    def captured() -> None:
        with model.capture([args.site]):
            sample(model, noise, loop)

    return {
        "plain": lambda: sample(model, noise, loop),
        "capture": captured,
        "steering": lambda: sample(model, noise, loop, interventions=[steer]),
    }


def harvesting(model: DiffusionModel, args: argparse.Namespace, folder: Path) -> dict[str, Callable[[], Any]]:
    """One stream over all stages at the deepest of six sites, and 18: each site at each of three stages."""
    source = RandomImages(args.images, model.image_size)
    with torch.no_grad(), model.capture(model.sites()) as tape:
        model.predict(torch.zeros(1, *model.latent_shape, device=model.device), 0)
    names = list(tape.tokens)  # in the order in which the model calls them
    places = [names[round(i * (len(names) - 1) / 5)] for i in range(6)]
    shared = {"steps": args.steps, "method": args.method, "batch_size": args.batch_size, "keep_x_t": False}
    stages = ((0, 332), (333, 665), (666, 999))
    many = {f"{s}-{low}": Stream(site=s, low=low, high=high, **shared) for s in places for low, high in stages}

    def run(streams: dict[str, Stream]) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        harvest_streams(model, source, {folder / name: stream for name, stream in streams.items()})

    return {
        "1 stream": lambda: run({"one": Stream(site=places[-1], low=0, high=999, **shared)}),
        "18 streams": lambda: run(many),
    }


def stopping(model: DiffusionModel, args: argparse.Namespace) -> dict[str, Callable[[], Any]]:
    """A whole pass with a tape, and a pass that ends after the site."""
    x = torch.randn(args.batch_size, *model.latent_shape).to(model.device)

    @torch.no_grad()
    def whole() -> None:
        with model.capture([args.site]):
            model.predict(x, 500)

    return {"whole pass": whole, "early stop": torch.no_grad()(lambda: model.read(x, 500, [args.site]))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="worlds/avatars")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--site", default="mid_block")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--method", default="noising", choices=("noising", "inversion"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    model = DiffusionModel.load(args.model, device=args.device)
    with tempfile.TemporaryDirectory() as folder:
        seconds = {}
        for rivals in (sampling(model, args), stopping(model, args), harvesting(model, args, Path(folder) / "s")):
            seconds |= rounds({name: synced(run, model) for name, run in rivals.items()}, args.rounds)
    pairs = [("capture", "plain"), ("steering", "plain"), ("early stop", "whole pass"), ("18 streams", "1 stream")]
    ratios = {f"{over} / {under}": ratio(seconds, over, under) for over, under in pairs}
    options = {k: v for k, v in vars(args).items() if k != "json"}
    say({"ratios": ratios, "seconds": seconds, "options": options, "torch threads": torch.get_num_threads()}, args.json)


def synced(run: Callable[[], Any], model: DiffusionModel) -> Callable[[], None]:
    """`run` to the end of its work: a call on a GPU returns before that."""

    def whole() -> None:
        run()
        if model.device.type == "cuda":
            torch.cuda.synchronize()

    return whole


if __name__ == "__main__":
    main()
