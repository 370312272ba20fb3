"""What the command line shows: live progress, and tables."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from sparsight.files import read_json
from sparsight.markdown import interval
from sparsight.terminal_compare import print_comparison
from sparsight.terminal_emergence import print_emergence

if TYPE_CHECKING:
    from sparsight.sae import SAE


@contextmanager
def goes_on() -> Iterator[None]:
    """Say of a command that was told to stop that it can go on; it still ends as Ctrl-C or SIGTERM end a process."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit) as stop:
        if isinstance(stop, SystemExit) and stop.code != 143:
            raise
        sys.stderr.write("sparsight: stopped. What is finished is kept; the same command goes on from here.\n")
        raise SystemExit(143 if isinstance(stop, SystemExit) else 130) from None


class Live:
    """A progress display of one line per stage; plain lines where there is no terminal, nothing if `quiet`."""

    def __init__(self, quiet: bool = False) -> None:
        self.console = Console(stderr=True, quiet=quiet)
        self.progress = Progress(
            SpinnerColumn(), TextColumn("{task.description:<9}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"),
            TimeElapsedColumn(), TimeRemainingColumn(), TextColumn("{task.fields[text]}"), console=self.console,
        )  # fmt: skip
        self.task: TaskID | None = None

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.console.is_terminal:  # a display that never started would still print an empty line
            self.progress.stop()

    def start(self, stage: str) -> None:
        """Open a line for the stage."""
        if not self.console.is_terminal:
            self.console.print(f"{stage} ...")
        self.task = self.progress.add_task(stage, total=None, text="")

    def update(self, done: int, total: int, text: str = "") -> None:
        """Move the stage's bar."""
        if self.task is not None:
            self.progress.update(self.task, completed=done, total=total, text=text)

    def finish(self, stage: str, seconds: float, cached: bool) -> None:
        """Close the stage's line."""
        word = "kept" if cached else f"done in {seconds:.0f} s" if seconds else "done"
        if not self.console.is_terminal:
            self.console.print(f"{stage} {word}")
        elif self.task is None or cached:
            self.progress.add_task(stage, total=1, completed=1, text=word)
        else:
            self.progress.update(self.task, total=1, completed=1, text=word)
        self.task = None


def print_table(folder: Path) -> None:
    """What a reader of a run asks first, from metrics.json: of CASL its EPR beside the best control's."""
    metrics, console = read_json(folder / "metrics.json"), Console()
    if metrics.get("experiment") == "emergence":
        print_emergence(metrics)
    elif metrics.get("experiment") == "compare":
        print_comparison(metrics)
    else:
        _print_casl(metrics, console)
    console.print(f"report: {folder / 'report.html'}", soft_wrap=True)


def _print_casl(metrics: dict[str, Any], console: Console) -> None:
    table = Table(title=f"EPR, judge {metrics['names']['classifier']}, seed {metrics['seed']}, 95 % intervals")
    for column in ("concept", "alpha", "flips", "casl", "best control", "its EPR"):
        table.add_column(column, no_wrap=column == "concept")
    for name, concept in metrics["concepts"].items():
        casl = concept["methods"]["casl"]
        rivals = {m: f["epr"] for m, f in concept["methods"].items() if m != "casl" and f["epr"]["value"] is not None}
        best = max(rivals, key=lambda m: rivals[m]["value"])
        flips = casl["flip_rate"]["value"]
        share = "-" if flips is None else f"{flips:.0%}"
        table.add_row(name, f"{concept['alpha']:g}", share, interval(casl["epr"]), best, interval(rivals[best]))
    console.print(table)


def print_sae(sae: SAE) -> None:
    """An SAE's sizes and rule, and the simple facts and metrics that it carries."""
    config, extra = sae.config, sae.extra
    rule = {"topk": f"top {config.k} of ", "batchtopk": f"{config.k} a token on average of "}.get(config.activation, "")
    size = f"{rule}{config.d_sae} latents"
    facts: dict[str, Any] = {
        "format": extra.get("source_format", "sparsight"), "activation": config.activation, "size": size,
        "channels": config.d_in, "atoms": "of length 1" if config.decoder_norm == "unit" else "of any length",
        "pre-bias": "b_dec is subtracted before encoding" if config.pre_bias else "none",
    } | _options(sae)  # fmt: skip
    nested = {
        f"{key}.{name}": v for key in ("metrics", "source_config") for name, v in dict(extra.get(key, {})).items()
    }
    table = Table(box=None, show_header=False, pad_edge=False)
    for name, value in (facts | extra | nested).items():
        if isinstance(value, str | int | float):
            table.add_row(name, escape(f"{value:.5g}" if isinstance(value, float) else str(value)))
    Console().print(table)


def _options(sae: SAE) -> dict[str, Any]:
    """What only some SAEs have."""
    config = sae.config
    facts: dict[str, Any] = {}
    if config.activation == "batchtopk":
        facts["threshold"] = float(sae.threshold)
    if config.prefixes:
        facts["Matryoshka"] = f"the first {', '.join(map(str, config.prefixes))} latents also reconstruct alone"
    if config.t_edges:
        facts["timesteps"] = (
            f"{len(config.t_edges) + 1} bins, cut at {', '.join(map(str, config.t_edges))}: encode(x, t)"
        )
    return facts
