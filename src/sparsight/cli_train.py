"""`sparsight train`, and the page that its --help prints: every option with its default, and what to try first."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from typer.core import TyperCommand

if TYPE_CHECKING:
    from sparsight.sae import TrainConfig

# Every field of TrainConfig, in the order in which one meets them. Defaults are read from the class.
OPTIONS: dict[str, dict[str, str]] = {
    "Size": {
        "expansion": "latents = expansion x channels. 16 trains in minutes, 128 is the CASL paper's",
        "d_sae": "number of latents, if you would rather say it outright",
    },
    "Sparsity": {
        "activation": "relu: z = ReLU(W h + b), pushed to be sparse by a penalty; topk: the k largest, exactly; "
        "batchtopk: k on average; jumprelu: a learned threshold for each latent; gated: on or off, and how much, apart",
        "k": "topk, batchtopk: active latents of a token",
        "sparsity": "relu, jumprelu, gated: weight of the penalty. Higher: fewer active latents (L0), lower fve",
        "sparsity_warmup": "steps over which the weight rises from 0",
        "bandwidth": "jumprelu: width of the window in which a threshold learns, in units of the pre-activation",
        "threshold_decay": "batchtopk: memory of the running threshold that inference uses",
    },
    "Form": {
        "decoder_norm": "unit: atoms of length 1; free: as they come",
        "pre_bias": "subtract b_dec before encoding",
        "init": "tied: random directions, the same in encoder and decoder; data: directions of tokens",
        "prefixes": "Matryoshka: the first so many latents must reconstruct alone, as in [256,1024]; []: an ordinary SAE",
        "t_edges": "an encoder bias for each bin of timesteps, cut as in [200,600]; []: the SAE does not know t",
    },
    "Length and pace": {
        "steps": "steps of Adam. Tokens read = steps x batch_size",
        "batch_size": "tokens of a step",
        "lr": "learning rate. If the loss stops being finite, lower it",
        "lr_warmup": "steps over which it rises from 0",
        "lr_decay": "steps over which it falls to 0 at the end",
        "beta1": "Adam's memory of the gradient",
        "beta2": "Adam's memory of its square",
        "seed": "of the weights and the order of tokens: same seed, same SAE",
    },
    "Dead latents": {
        "dead_after": "a latent is dead that has not fired for so many tokens",
        "revive_every": "all but topk and batchtopk: steps between moving dead latents onto badly reconstructed tokens; 0 = never",
        "aux_k": "all but relu: so many dead latents learn to explain what is left over; 0 = none",
        "aux_coefficient": "weight of that loss",
    },
    "Watching": {
        "log_every": "steps between figures in log.jsonl, on the terminal and in --log",
        "validate_every": "in recipes: steps between scores on held-out images; 0 = never",
        "validation_tokens": "in recipes: how many of their tokens",
        "checkpoint_every": "steps between checkpoints, from which a killed training goes on; 0 = none",
    },
    "Machine": {
        "device": "auto, cpu, cuda, cuda:1 ...",
        "amp": "encoder product in bf16, where the machine is faster with it",
        "dense_above": "share of active latents above which dense products are the faster ones",
        "memory_mb": "of the buffer in which tokens are shuffled",
    },
}
EXAMPLES = {
    "A store first: the activations of your own images": "sparsight harvest worlds/avatars photos store --site mid_block",
    "A small ReLU SAE": "sparsight train store sae -s expansion=16 -s steps=2000 -s lr=1e-3 -s sparsity=16",
    "TopK with 32 active latents, dead ones revived": "sparsight train store sae -s activation=topk -s k=32 -s aux_k=256",
    "The same, watched in TensorBoard": "sparsight train store sae -s activation=topk --log tensorboard",
    "On two GPUs, or in two processes of a CPU": "torchrun --nproc-per-node 2 -m sparsight train store sae",
    "What came out, and for others' tools": "sparsight sae info sae && sparsight sae export sae out --format saelens",
}
ADVICE = (
    "Look at two figures: L0 (active latents of a token) and fve (share of variance explained; 1 is perfect). If L0 is too high, "
    "raise sparsity or lower k; if fve is too low, do the opposite, or raise expansion or steps. If the share of dead latents "
    "climbs, set revive_every (relu) or aux_k (topk)."
)


class TrainPage(TyperCommand):
    """A command whose --help goes on with the table of options."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Typer's own help, then the page."""
        super().format_help(ctx, formatter)
        from sparsight.sae.config import TrainConfig

        console = Console()
        console.print(_table(TrainConfig()))
        console.print(f"\n{ADVICE}\n")
        for what, command in EXAMPLES.items():
            console.print(f"[bold]{what}[/bold]")
            console.print(f"  {command}", soft_wrap=True, highlight=False)


def _table(defaults: TrainConfig) -> Table:
    table = Table(title="Options for -s NAME=VALUE", box=None, title_justify="left", pad_edge=False)
    for column in ("name", "default", "meaning"):
        table.add_column(column, no_wrap=column != "meaning")
    for group, options in OPTIONS.items():
        table.add_row(f"[bold]{group}[/bold]")
        for name, meaning in options.items():
            table.add_row(f"  {name}", _shown(getattr(defaults, name)), meaning)
    return table


def _shown(value: Any) -> str:
    """A default as one would write it on the command line."""
    if value is None:
        return "-"
    if isinstance(value, tuple):
        return str(list(value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def train(
    store: Annotated[str, typer.Argument(help="A store, made by `sparsight harvest`: a folder or a URI.")],
    out: Annotated[Path, typer.Argument(help="Folder for the SAE.")],
    option: Annotated[
        list[str] | None, typer.Option("--set", "-s", help="An option of the table below, as NAME=VALUE. Repeatable.")
    ] = None,
    log: Annotated[
        list[str] | None,
        typer.Option(help="Besides the terminal and OUT/log.jsonl: wandb or tensorboard (extras). Repeatable."),
    ] = None,
) -> None:
    """Train a sparse autoencoder on a store; a killed training goes on where it stopped.

    Started by torchrun or accelerate, all processes train one SAE, each on its part of every batch.
    OUT becomes a folder with config.json, model.safetensors and a model card, which `SAE.from_pretrained` reads.
    """
    from sparsight.activations import Store
    from sparsight.parallel import launched
    from sparsight.pipeline.recipe import train_config
    from sparsight.sae import open_logs, train_sae
    from sparsight.terminal import Live, goes_on

    config = train_config(option or [])
    opened, first = Store.open(store), launched().rank == 0
    with goes_on(), Live(quiet=not first) as live:

        def show(step: int, total: int, metrics: dict[str, float]) -> None:
            live.update(step, total, f"fve {metrics.get('fve', 0):.3f}  L0 {metrics.get('l0', 0):.0f}")

        live.start("train")
        with open_logs((log or []) if first else [], out, config, also=show) as progress:
            train_sae(opened, config, out, progress)
        live.finish("train", 0.0, cached=False)
    if first:
        typer.echo(str(out))
