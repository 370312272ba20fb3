"""The command line: every stage of the way, and the whole of it in one command."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sparsight.cli_concepts import concepts_app
from sparsight.cli_generate import generate
from sparsight.cli_generate_page import GeneratePage
from sparsight.cli_sae import sae_app
from sparsight.cli_train import TrainPage, train
from sparsight.errors import SparsightError

if TYPE_CHECKING:
    from sparsight.pipeline import Run

app = typer.Typer(
    name="sparsight", no_args_is_help=True, add_completion=False, rich_markup_mode="rich",
    help="See inside diffusion models with sparse latents: train, align, steer, and measure honestly.",
    epilog="Start with [bold]sparsight run demo[/bold]: a few minutes on two cores, no download.",
)  # fmt: skip
world_app = typer.Typer(no_args_is_help=True, help="Worlds: small, fully known image domains that ship with sparsight.")
app.add_typer(world_app, name="world")
app.add_typer(sae_app, name="sae")
app.add_typer(concepts_app, name="concepts")

RunFolder = Annotated[Path, typer.Argument(help="A run folder, made by `sparsight run`.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", "-s", help="Override a recipe key, e.g. sae.expansion=64. Repeatable.")
]


def main() -> None:
    """Run the command line; a mistake of the user's is one line on stderr and exit code 2."""
    try:
        app()
    except SparsightError as error:
        sys.stderr.write(f"sparsight: {error}\n")
        raise SystemExit(2) from None


@app.command()
def run(
    recipe: Annotated[
        str,
        typer.Argument(
            help="A recipe by name (avatars, scenes, compare-avatars, compare-scenes, demo, demo-scenes, demo-compare) or a "
            "YAML file."
        ),
    ],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Run folder. Default: runs/RECIPE.")] = None,
    override: Overrides = None,
    until: Annotated[
        str,
        typer.Option(help="Last stage, such as harvest, train, evaluate or report; which there are is the recipe's."),
    ] = "report",
) -> None:
    """Do a whole experiment, from harvest to report. What is already done is not done again."""
    from sparsight.parallel import launched
    from sparsight.pipeline import load_recipe, run_recipe
    from sparsight.terminal import Live, goes_on, print_table

    loaded = load_recipe(recipe, override or [])
    if launched().size > 1:
        raise SparsightError("a run is for one process: what torchrun can start is `sparsight harvest` and `train`")
    folder = out or Path("runs") / loaded.name
    command = " ".join(["sparsight run", recipe, *(f"-s {o}" for o in override or [])])
    with goes_on(), Live() as live:
        finished = run_recipe(loaded, folder, live, command=command, until=until)
    if until in ("evaluate", "report"):
        print_table(finished.folder)


def _stage(folder: Path, stage: str) -> Run:
    from sparsight.pipeline import Run
    from sparsight.terminal import Live, goes_on

    with goes_on(), Live() as live:
        opened = Run.open(folder, live)
        live.start(stage)
        opened.work()[stage](opened)
        live.finish(stage, 0.0, cached=False)
    return opened


@app.command()
def evaluate(folder: RunFolder) -> None:
    """Recompute metrics.json of a run from its saved images."""
    from sparsight.terminal import print_table

    _stage(folder, "evaluate")
    print_table(folder)


@app.command()
def report(folder: RunFolder) -> None:
    """Write report.html of a run again."""
    _stage(folder, "report")
    typer.echo(str(folder / "report.html"))


@app.command()
def results(
    folders: Annotated[list[Path], typer.Argument(help="Runs that differ in their seed alone.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Where to write: OUT.json and OUT.tables.md.")] = Path(
        "results"
    ),
    sae: Annotated[bool, typer.Option("--sae", help="Set their SAEs side by side instead; any runs will do.")] = False,
) -> None:
    """Pool runs of several seeds into one table, with its JSON beside it."""
    from sparsight.pipeline.results import results_of

    command = f"sparsight results {' '.join(map(str, folders))}{' --sae' if sae else ''} -o {out}"
    results_of(folders, out, command, sae)
    typer.echo(f"{out.with_suffix('.json')} {out.with_suffix('.tables.md')}")


@app.command()
def steer(
    folder: RunFolder,
    concept: Annotated[
        list[str], typer.Option("--concept", "-c", help="Concept to switch on. Repeatable: several at once.")
    ],
    image: Annotated[Path, typer.Option("--image", "-i", help="Your picture, of the size that the model takes.")],
    alpha: Annotated[
        list[float] | None,
        typer.Option("--alpha", "-a", help="Strength, one for each concept. Default: the run's choice."),
    ] = None,
    k: Annotated[int | None, typer.Option(help="How many latents to steer. Default: the recipe's.")] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Where to write before and after, side by side.")] = Path(
        "steered.png"
    ),
) -> None:
    """Edit your own picture with a run's latents."""
    from sparsight.images import write_pair
    from sparsight.pipeline.casl.own import steer_image
    from sparsight.pipeline.casl.run import CaslRun

    before, after = steer_image(CaslRun.open_own(folder), image, concept, alpha, k)
    write_pair(out, before, after)
    typer.echo(str(out))


@app.command()
def sites(
    model: Annotated[str, typer.Argument(help="worlds/avatars, a local folder, or a Hub id.")],
    causal: Annotated[bool, typer.Option("--causal", help="Measure how much of the image each site decides.")] = False,
    images: Annotated[int, typer.Option(help="Images of the causal test.")] = 16,
    steps: Annotated[int, typer.Option(help="Sampling steps of the causal test.")] = 25,
    low: Annotated[int, typer.Option(help="Lowest timestep of the swap.")] = 500,
    only: Annotated[list[str] | None, typer.Option("--site", help="Test only these sites. Repeatable.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="More than the cross-attention blocks, too.")] = False,
    prompt: Annotated[str | None, typer.Option(help="Prompt of the causal test, for a text-to-image model.")] = None,
) -> None:
    """List a model's sites, and with --causal say where steering can work at all."""
    from sparsight.terminal_sites import print_sites

    print_sites(model, causal, images, steps, low, only or [], everything, prompt)


@app.command()
def harvest(
    model: Annotated[str, typer.Argument(help="worlds/avatars, a local folder, or a Hub id.")],
    images: Annotated[Path, typer.Argument(help="A folder of images of the model's size.")],
    out: Annotated[str, typer.Argument(help="Store to write: a folder, or a URI such as s3://bucket/store.")],
    site: Annotated[str, typer.Option(help="Where to read: a module path, or PATH:update.")] = "mid_block",
    steps: Annotated[int, typer.Option(help="Steps of the DDIM grid.")] = 100,
    low: Annotated[int, typer.Option(help="Lowest timestep.")] = 500,
    high: Annotated[int, typer.Option(help="Highest timestep.")] = 999,
    method: Annotated[str, typer.Option(help="inversion or noising.")] = "inversion",
    dtype: Annotated[str, typer.Option(help="fp32, fp16, bf16 or int8.")] = "fp16",
    batch_size: Annotated[int, typer.Option(help="Images at a time; one shard each.")] = 64,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 ...")] = "auto",
    part: Annotated[
        str,
        typer.Option(help="2/16: the second of sixteen processes, each with shards of its own; torchrun says it too."),
    ] = "",
) -> None:
    """Write a site's activations over your own images to a store; a killed harvest goes on where it stopped.

    Several processes or machines can fill one store: start each with its --part, or all with torchrun. They do not wait
    for each other, and the last one to end finishes the store.
    """
    from sparsight.activations import HarvestConfig, Store, harvest_part
    from sparsight.activations.harvest import harvest as work
    from sparsight.diffusion import DiffusionModel
    from sparsight.images import Folder
    from sparsight.parallel import launched, own_device, parse_part
    from sparsight.terminal import Live

    mine = parse_part(part) if part else launched()
    config = HarvestConfig(site, steps, low, high, method, 0, dtype, batch_size)
    loaded = DiffusionModel.load(model, device=own_device(device))
    loaded.site(site)
    source = Folder(images, loaded.image_size)
    with Live() as live:
        live.start("harvest")
        if mine.size == 1:
            work(loaded, source, out, config, progress=live.update)
        elif not harvest_part(loaded, source, {out: config}, mine, progress=live.update):
            typer.echo(
                f"{out}: part {mine.rank + 1} of {mine.size} is done; the store is finished when the last one is"
            )
            return
        live.finish("harvest", 0.0, cached=False)
    store = Store.open(out, verify=False)
    typer.echo(f"{out}: {len(store)} maps of {store.spec.positions} tokens")


app.command(cls=TrainPage)(train)
app.command(cls=GeneratePage)(generate)


@app.command()
def align(folder: RunFolder, override: Overrides = None) -> None:
    """Align a run's latents to its concepts again, with other options if you like."""
    from sparsight.pipeline import load_recipe, run_recipe
    from sparsight.terminal import Live

    with Live() as live:
        run_recipe(load_recipe(folder / "recipe.yaml", override or []), folder, live, until="align")


@world_app.command("build")
def world_build(
    name: Annotated[str, typer.Argument(help="avatars or scenes")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Where to build. Weights end in OUT/weights.")] = Path(
        "runs/world"
    ),
    only: Annotated[list[str] | None, typer.Option("--only", help="Build only these parts. Repeatable.")] = None,
    scale: Annotated[float, typer.Option(help="Multiply every number of training steps; below 1 for a trial.")] = 1.0,
) -> None:
    """Train all of a world's models again from nothing; a killed build goes on where it stopped."""
    from importlib import import_module

    from sparsight.terminal import Live
    from sparsight.worlds import load_world

    build = import_module(f"sparsight.worlds.{load_world(name).name}.build").build
    with Live() as live:
        build(out, live, only or [], scale)


@world_app.command("check")
def world_check(
    name: Annotated[str, typer.Argument(help="avatars or scenes")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Also write the figures as JSON.")] = None,
    renders: Annotated[int, typer.Option(help="Held-out renders for the judges.")] = 2000,
    inverted: Annotated[int, typer.Option(help="Renders to invert and sample back (avatars).")] = 64,
    samples: Annotated[int, typer.Option(help="Samples of the model.")] = 1000,
    swapped: Annotated[int, typer.Option(help="Prompts of the causal test, 0 for none (scenes).")] = 32,
    precision: Annotated[str, typer.Option(help="fp32, or bf16 where the processor is faster with it.")] = "fp32",
) -> None:
    """Measure a world's models on held-out renders: the figures of docs/worlds.md."""
    import json
    from importlib import import_module

    from sparsight.files import write_json
    from sparsight.terminal import Live
    from sparsight.worlds import load_world

    world = load_world(name)
    check = import_module(f"sparsight.worlds.{world.name}.quality").check
    own: dict[str, Any] = {"inverted": inverted} if world.name == "avatars" else {"swapped": swapped}
    with Live() as live:
        live.start("check")
        found = check(world, live, renders, samples=samples, precision=precision, **own)
        live.finish("check", 0.0, cached=False)
    if out is not None:
        write_json(out, found)
    typer.echo(json.dumps(found, indent=2))


@app.command()
def version() -> None:
    """Print the versions that matter."""
    from sparsight.pipeline.run import versions

    for package, number in versions().items():
        typer.echo(f"{package} {number}")


if __name__ == "__main__":
    main()
