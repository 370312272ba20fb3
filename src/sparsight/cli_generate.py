"""`sparsight generate`: an image from a prompt."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Annotated

import typer

from sparsight.errors import SparsightError


def generate(
    model: Annotated[str, typer.Argument(help="A Stable Diffusion 1.x or 2.x folder, or a Hub id.")],
    prompt: Annotated[str, typer.Option("--prompt", "-p", help="What to draw; may be empty.")],
    seed: Annotated[int, typer.Option(help="Seed of the noise, as in diffusers on a CPU.")] = 0,
    steps: Annotated[int, typer.Option(help="DDIM steps.")] = 50,
    guidance: Annotated[float, typer.Option("--guidance", "-g", help="diffusers' guidance_scale; 1 for none.")] = 7.5,
    negative: Annotated[str, typer.Option(help="What to steer away from.")] = "",
    out: Annotated[Path, typer.Option("--out", "-o", help="PNG to write.")] = Path("generated.png"),
) -> None:
    """Draw a prompt with a text-to-image model: the image that diffusers' own pipeline would draw with DDIM."""
    if out.suffix.lower() != ".png":
        raise SparsightError(f"{out} must end in .png")
    if negative and guidance == 1:
        raise SparsightError("a negative prompt does nothing at guidance 1: raise --guidance, or leave it out")
    if not prompt.strip():
        _say("the prompt is empty: this is what the model draws when nothing is asked of it")
    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        shown = warnings.showwarning
        warnings.showwarning = lambda message, *rest: (
            _say(message) if "is cut after" in str(message) else shown(message, *rest)
        )
        _draw(model, prompt, seed, steps, guidance, negative, out)
    typer.echo(str(out))


def _draw(model: str, prompt: str, seed: int, steps: int, guidance: float, negative: str, out: Path) -> None:
    from sparsight.diffusion import DiffusionModel
    from sparsight.diffusion import generate as draw
    from sparsight.images import write_image
    from sparsight.terminal import Live

    loaded = DiffusionModel.load(model)
    with Live() as live:
        live.start("generate")
        (image,) = draw(
            loaded, prompt, seed=seed, steps=steps, guidance=guidance, negative=negative,
            progress=lambda moment: live.update(moment.index + 1, moment.steps),
        )  # fmt: skip
        live.finish("generate", 0.0, cached=False)
    write_image(out, image)


def _say(text: object) -> None:
    sys.stderr.write(f"sparsight: {text}\n")
