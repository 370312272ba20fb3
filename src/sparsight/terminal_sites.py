"""What `sparsight sites` shows: a model's sites, and how much of the image each decides."""

from __future__ import annotations

from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from sparsight.diffusion import Conditioning, DiffusionModel, Loop, SiteInfo
from sparsight.errors import SparsightError
from sparsight.steering import Window
from sparsight.steering.causal import attributes_followed, swap_test
from sparsight.terminal import Live


def print_sites(
    model: str, causal: bool, images: int, steps: int, low: int, only: list[str], everything: bool = False,
    prompt: str | None = None,
) -> None:  # fmt: skip
    """A model's sites; with `causal`, the swap test of each.

    Of a text-to-image model only the cross-attention blocks are listed, unless `everything` is asked for.
    """
    loaded = DiffusionModel.load(model)
    if prompt is not None and not (causal and loaded.takes_prompts):
        raise SparsightError("--prompt is for the causal test of a text-to-image model: leave it out, or add --causal")
    chosen = [loaded.site(name) for name in only] or _listed(loaded, everything)
    table = _table(model, loaded, causal, images, low, steps)
    test = _Test(loaded, model, images, steps, low, prompt or "") if causal else None
    with Live() as live:
        live.start("sites")
        for done, info in enumerate(chosen):
            cells = test.cells(info.name) if test else []
            update = [("yes" if info.has_update else "no")] if loaded.takes_prompts else []
            table.add_row(info.name, str(info.channels), f"{info.grid[0]}x{info.grid[1]}", *update, *cells)
            live.update(done + 1, len(chosen), info.name)
        live.finish("sites", 0.0, cached=False)
    Console().print(table)
    if not only and len(chosen) < len(loaded.sites()):
        rest = len(loaded.sites()) - len(chosen)
        Console().print(f"cross-attention blocks; {rest} more sites with --all", soft_wrap=True)


def _listed(model: DiffusionModel, everything: bool) -> list[SiteInfo]:
    sites = list(model.sites().values())
    return sites if everything or not model.takes_prompts else [info for info in sites if info.cross_attention]


def _table(name: str, model: DiffusionModel, causal: bool, images: int, low: int, steps: int) -> Table:
    tested = f": swap test, n = {images}, t >= {low}, {steps} steps, seed 0" if causal else ""
    table = Table(title=f"sites of {name}{tested}")
    update = ("NAME:update",) if model.takes_prompts else ()
    measured = ("image that follows", "attributes that follow") if causal else ()
    for column in ("site", "channels", "grid", *update, *measured):
        table.add_column(column, overflow="fold", no_wrap=column == "site")
    return table


class _Test:
    """The swap test, with what it needs held ready."""

    def __init__(self, model: DiffusionModel, name: str, images: int, steps: int, low: int, prompt: str) -> None:
        self.model, self.loop, self.window = model, Loop(steps=steps), Window(low, 999)
        self.noise = torch.randn(images, *model.latent_shape, generator=torch.Generator().manual_seed(0))
        self.judge = _judge(name)
        self.told: Conditioning | None = model.encode_prompts(prompt) if model.takes_prompts else None

    @torch.no_grad()
    def cells(self, site: str) -> list[str]:
        """The share of the image, and of its attributes, that followed the swapped tokens."""
        swap = swap_test(self.model, site, self.noise, self.loop, self.window, self.told)
        judge = self.judge
        followed = "-"
        if judge is not None:
            followed = f"{attributes_followed(*(judge(x) > 0 for x in (swap.own, swap.donor, swap.swapped))):.0%}"
        return [f"{float(swap.followed.mean()):.0%}", followed]


def _judge(model: str) -> Any:
    """The classifier of a world's model; None for models that have no judge."""
    from sparsight.worlds import load_world

    return load_world(model).classifiers["resnet"] if model == "worlds/avatars" else None
