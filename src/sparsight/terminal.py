"""What the command line shows: live progress, and tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from sparsight.files import read_json


class Live:
    """A progress display of one line per stage; plain lines where there is no terminal."""

    def __init__(self) -> None:
        self.console = Console(stderr=True)
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


def _figure(interval: dict[str, Any] | None, digits: int = 2) -> str:
    if not interval or interval["value"] is None:
        return "-"
    return f"{interval['value']:.{digits}f} [{interval['low']:.{digits}f}, {interval['high']:.{digits}f}]"


def print_table(folder: Path) -> None:
    """CASL's EPR beside the best control's, and what else a reader asks first, from metrics.json."""
    metrics, console = read_json(folder / "metrics.json"), Console()
    table = Table(title=f"EPR, judge {metrics['names']['classifier']}, seed {metrics['seed']}, 95 % intervals")
    for column in ("concept", "alpha", "flips", "casl", "best control", "its EPR"):
        table.add_column(column, no_wrap=column == "concept")
    for name, concept in metrics["concepts"].items():
        casl = concept["methods"]["casl"]
        rivals = {m: f["epr"] for m, f in concept["methods"].items() if m != "casl" and f["epr"]["value"] is not None}
        best = max(rivals, key=lambda m: rivals[m]["value"])
        flips = casl["flip_rate"]["value"]
        share = "-" if flips is None else f"{flips:.0%}"
        table.add_row(name, f"{concept['alpha']:g}", share, _figure(casl["epr"]), best, _figure(rivals[best]))
    console.print(table)
    console.print(f"report: {folder / 'report.html'}", soft_wrap=True)


def print_sites(model: str, causal: bool, images: int, steps: int, low: int, only: list[str]) -> None:
    """A model's sites; with `causal`, the swap test of each."""
    import torch

    from sparsight.diffusion import DiffusionModel, Loop
    from sparsight.steering import Window
    from sparsight.steering.causal import attributes_followed, swap_test

    loaded = DiffusionModel.load(model)
    names = [loaded.site(name).name for name in only] or list(loaded.sites())
    table = Table(
        title=f"sites of {model}" + (f": swap test, n = {images}, t >= {low}, {steps} steps, seed 0" if causal else "")
    )
    for column in ("site", "channels", "grid", *(("image that follows", "attributes that follow") if causal else ())):
        table.add_column(column, overflow="fold", no_wrap=column == "site")
    judge = _judge(model) if causal else None
    noise = torch.randn(images, *loaded.latent_shape, generator=torch.Generator().manual_seed(0))
    with Live() as live:
        live.start("sites")
        for done, name in enumerate(names):
            info, cells = loaded.site(name), []
            if causal:
                swap = swap_test(loaded, name, noise, Loop(steps=steps), Window(low, 999))
                cells = [f"{float(swap.followed.mean()):.0%}"]
                with torch.no_grad():
                    cells.append(
                        f"{attributes_followed(*(judge(x) > 0 for x in (swap.own, swap.donor, swap.swapped))):.0%}"
                        if judge
                        else "-"
                    )
            table.add_row(name, str(info.channels), f"{info.grid[0]}x{info.grid[1]}", *cells)
            live.update(done + 1, len(names), name)
        live.finish("sites", 0.0, cached=False)
    Console().print(table)


def _judge(model: str) -> Any:
    """The attribute classifier of a world's model; None for models that have none."""
    from sparsight.worlds import load_world

    return load_world(model).classifiers["resnet"] if model == "worlds/avatars" else None
