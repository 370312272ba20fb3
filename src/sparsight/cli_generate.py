"""`sparsight generate`: an image from a prompt, and beside it the same image edited with a run's latents."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from sparsight.errors import SparsightError

STEPS, GUIDANCE = 50, 7.5
EDITING = "Editing, with what a run has learned"


def generate(
    prompt: Annotated[str, typer.Option("--prompt", "-p", help="What to draw; may be empty.")],
    model: Annotated[
        str | None,
        typer.Argument(help="A Stable Diffusion 1.x or 2.x folder, or a Hub id. Default with --run: the run's model."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the noise, as in diffusers on a CPU.")] = 0,
    steps: Annotated[int | None, typer.Option(help="DDIM steps. Default: 50; with --run the run's.")] = None,
    guidance: Annotated[
        float | None,
        typer.Option(
            "--guidance", "-g", help="diffusers' guidance_scale; 1 for none. Default: 7.5; with --run the run's."
        ),
    ] = None,
    negative: Annotated[str, typer.Option(help="What to steer away from.")] = "",
    out: Annotated[
        Path, typer.Option("--out", "-o", help="PNG to write; edited: before and after, side by side.")
    ] = Path("generated.png"),
    run: Annotated[
        Path | None,
        typer.Option(help="An emergence run: its SAEs, dictionaries and strengths.", rich_help_panel=EDITING),
    ] = None,
    move: Annotated[
        list[str] | None,
        typer.Option(
            metavar="WORD:PLACE[:STRENGTH]",
            help="Put WORD into PLACE and nowhere else: top-left, top-right, bottom-left, bottom-right, or a mask's PNG of "
            "any size. Repeatable.",
            rich_help_panel=EDITING,
        ),
    ] = None,
    style: Annotated[
        list[str] | None,
        typer.Option(
            metavar="WORD[:STRENGTH]",
            help="Bring WORD in everywhere; below 0 takes it away. Repeatable.",
            rich_help_panel=EDITING,
        ),
    ] = None,
    window: Annotated[
        str | None,
        typer.Option(
            metavar="LOW-HIGH",
            help="When all edits act, such as 0.6-1.0. Default: the early stage for --move, the middle for --style.",
            rich_help_panel=EDITING,
        ),
    ] = None,
) -> None:
    """Draw a prompt with a text-to-image model: the image that diffusers' own pipeline would draw with DDIM.

    With --run and --move or --style, draw it twice, unedited and edited with the run's latents, side by side.
    """
    if out.suffix.lower() != ".png":
        raise SparsightError(f"{out} must end in .png")
    _require_heard(negative, guidance)
    wishes = _wishes(model, run, move or [], style or [], window)
    if not prompt.strip():
        _say("the prompt is empty: this is what the model draws when nothing is asked of it")
    with _warnings_said():
        if run is not None:
            _edit(run, model, wishes, out, prompt=prompt, seed=seed, steps=steps, guidance=guidance, negative=negative)
        else:
            assert model is not None
            given = {"steps": STEPS if steps is None else steps, "guidance": GUIDANCE if guidance is None else guidance}
            _draw(model, out, prompt=prompt, seed=seed, negative=negative, **given)
    typer.echo(str(out))


def _wishes(
    model: str | None, run: Path | None, move: list[str], style: list[str], window: str | None
) -> dict[str, Any]:
    """The edits that are asked for, parsed before anything is loaded."""
    if run is None and (move or style):
        raise SparsightError("--move and --style need --run: the folder of an emergence run, whose latents they use")
    if not (move or style) and (run is not None or window is not None):
        raise SparsightError("--run and --window are for edits: give --move or --style, or leave them out")
    if run is None and model is None:
        raise SparsightError("name a MODEL: a pipeline's folder or a Hub id; or --run, with --move or --style")
    if run is None:
        return {}
    from sparsight.pipeline.emergence.asked import Move, Style, parse_window

    return {
        "moves": [Move.parse(text) for text in move],
        "styles": [Style.parse(text) for text in style],
        "window": None if window is None else parse_window(window),
    }


def _draw(name: str, out: Path, prompt: str, **options: Any) -> None:
    from sparsight.diffusion import DiffusionModel
    from sparsight.diffusion import generate as draw
    from sparsight.images import write_image
    from sparsight.terminal import Live
    from sparsight.worlds import load_world

    loaded = DiffusionModel.load(name)
    _say_unknown(loaded, load_world(name) if name.startswith("worlds/") else None, prompt)
    with Live() as live:
        live.start("generate")
        (image,) = draw(
            loaded, prompt, progress=lambda moment: live.update(moment.index + 1, moment.steps), **options
        )  # fmt: skip
        live.finish("generate", 0.0, cached=False)
    write_image(out, image)


def _edit(folder: Path, model: str | None, wishes: dict[str, Any], out: Path, prompt: str, **options: Any) -> None:
    from sparsight.images import write_pair
    from sparsight.pipeline.emergence.own import edit_prompt, open_run
    from sparsight.terminal import Live

    run = open_run(folder, model)
    if options["guidance"] is None:
        _require_heard(options["negative"], run.recipe.sampling.guidance)
    _say_unknown(run.model, run.world, prompt)
    with Live() as live:
        live.start("generate")
        edited = edit_prompt(
            run, prompt, **wishes, **options,
            progress=lambda moment, image: live.update(image * moment.steps + moment.index + 1, 2 * moment.steps),
        )  # fmt: skip
        live.finish("generate", 0.0, cached=False)
    write_pair(out, edited.before, edited.after)
    for part in edited.parts:
        typer.echo(str(part))


def _require_heard(negative: str, guidance: float | None) -> None:
    if negative and guidance == 1:
        raise SparsightError("a negative prompt does nothing at guidance 1: raise --guidance, or leave it out")


def _say_unknown(model: Any, world: Any, prompt: str) -> None:
    """Words that the tokenizer has no token for, or that no caption of the world holds."""
    told = [thing.unknown_words for thing in (model, world) if hasattr(thing, "unknown_words")]
    found = list({word.lower(): word for unknown_in in told for word in unknown_in(prompt)}.values())
    if found:
        _say(f"the model does not know the words {', '.join(map(repr, found))}: it draws without their meaning")


@contextmanager
def _warnings_said() -> Iterator[None]:
    """Say once, in one sentence, what of a long prompt is cut; other warnings are shown as ever."""
    with warnings.catch_warnings():
        warnings.simplefilter("default", UserWarning)  # each text once: an edited prompt is read twice
        shown = warnings.showwarning
        warnings.showwarning = lambda message, *rest: (
            _say(message) if "is cut after" in str(message) else shown(message, *rest)
        )
        yield


def _say(text: object) -> None:
    sys.stderr.write(f"sparsight: {text}\n")
