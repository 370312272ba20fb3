"""A run: a recipe, a folder, and stages of which each is done once for the same inputs."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import torch
import yaml

from sparsight.diffusion import DiffusionModel
from sparsight.errors import SparsightError
from sparsight.files import atomic, digest, read_json, write_json
from sparsight.pipeline.recipe import Recipe, load_recipe
from sparsight.sae import TrainConfig
from sparsight.sae.config import without_later_defaults
from sparsight.worlds import load_avatars
from sparsight.worlds.avatars.world import AvatarsWorld

STAGES = ("harvest", "train", "align", "steer", "evaluate", "report")
# What each stage reads of the recipe, beside what the stages before it read.
_READS: dict[str, tuple[str, ...]] = {
    "harvest": ("world", "seed", "precision", "data", "harvest"),
    "train": ("sae",),
    "align": ("concepts", "align"),
    "steer": ("steer",),
    "evaluate": (),
    "report": ("name",),
}


class Reporter(Protocol):
    """Where a run tells how far it is."""

    def start(self, stage: str) -> None:
        """A stage begins."""
        ...

    def update(self, done: int, total: int, text: str = "") -> None:
        """`done` of `total` parts of the stage are finished."""
        ...

    def finish(self, stage: str, seconds: float, cached: bool) -> None:
        """A stage has ended; `cached` says that it had been done before."""
        ...


class Silent:
    """A reporter that says nothing."""

    def start(self, stage: str) -> None:
        """Say nothing."""

    def update(self, done: int, total: int, text: str = "") -> None:
        """Say nothing."""

    def finish(self, stage: str, seconds: float, cached: bool) -> None:
        """Say nothing."""


class Run:
    """A run folder with its recipe; world and model are loaded when first needed."""

    def __init__(self, folder: Path, recipe: Recipe, reporter: Reporter | None = None) -> None:
        self.folder, self.recipe = Path(folder), recipe
        self.report: Reporter = reporter or Silent()
        if recipe.threads:
            torch.set_num_threads(recipe.threads)

    @classmethod
    def open(cls, folder: str | Path, reporter: Reporter | None = None) -> Run:
        """An existing run. Raises `SparsightError` where the folder holds none."""
        path = Path(folder) / "recipe.yaml"
        if not path.exists():
            raise SparsightError(f"{folder} is no run folder: it has no recipe.yaml")
        return cls(Path(folder), load_recipe(path), reporter)

    @cached_property
    def world(self) -> AvatarsWorld:
        """The world of the recipe."""
        return load_avatars(self.recipe.world)

    @cached_property
    def model(self) -> DiffusionModel:
        """The world's model, in the recipe's precision."""
        model = DiffusionModel.load(self.world.model)
        model.precision = self.recipe.precision
        return model

    @property
    def train_numbers(self) -> list[int]:
        """Images of the split "harvest" that the SAE and the alignments learn from."""
        return list(range(self.recipe.data.train))

    @property
    def held_out_numbers(self) -> list[int]:
        """Images of the split "harvest" that neither has seen."""
        data = self.recipe.data
        return list(range(data.train, data.train + data.held_out))

    def key(self, stage: str) -> str:
        """A digest of everything that this stage depends on."""
        plain = self.recipe.plain()
        plain["sae"] = without_later_defaults(TrainConfig, plain["sae"])  # runs of earlier versions stay done
        reads = [name for s in STAGES[: STAGES.index(stage) + 1] for name in _READS[s]]
        return digest({"model": self.model.fingerprint(), **{name: plain[name] for name in reads}})

    @property
    def state(self) -> dict[str, Any]:
        """run.json: which stages are done, for which inputs, and how long they took."""
        path = self.folder / "run.json"
        return read_json(path) if path.exists() else {"stages": {}, "seconds": {}, "versions": {}}

    def save_recipe(self) -> None:
        """Write recipe.yaml; a folder that holds another recipe's run keeps what is still valid of it."""
        with atomic(self.folder / "recipe.yaml") as temporary:
            temporary.write_text(yaml.safe_dump(self.recipe.plain(), sort_keys=False), "utf-8")

    def do(self, stage: str, work: Callable[[Run], None]) -> None:
        """Do a stage unless it is already done for the same inputs."""
        key = self.key(stage)
        if self.state["stages"].get(stage) == key:
            self.report.finish(stage, self.state["seconds"].get(stage, 0.0), cached=True)
            return
        self.report.start(stage)
        began = time.monotonic()
        work(self)
        seconds = time.monotonic() - began
        state = self.state
        state["stages"][stage] = key
        state["seconds"][stage] = round(seconds, 1)
        state["versions"] = versions()
        write_json(self.folder / "run.json", state)
        self.report.finish(stage, seconds, cached=False)


def versions() -> dict[str, str]:
    """The packages whose version can change a number."""
    names = ("sparsight", "torch", "diffusers", "transformers", "scikit-learn", "dicebear-styles", "resvg-py")
    return {name: version(name) for name in names}


def run_recipe(
    recipe: Recipe, folder: Path, reporter: Reporter | None = None, command: str = "", until: str = "report"
) -> Run:
    """Do every stage up to `until` that is not already done; a killed run goes on where it stopped."""
    from sparsight.pipeline.stages import WORK

    run = Run(folder, recipe, reporter)
    _check_concepts(run)
    run.save_recipe()
    if command:
        write_json(run.folder / "run.json", {**run.state, "command": command})
    for stage in STAGES[: STAGES.index(until) + 1]:
        run.do(stage, WORK[stage])
    return run


def _check_concepts(run: Run) -> None:
    """An unknown concept is found before anything is written."""
    from sparsight.concepts import choose

    choose(run.recipe.concepts, run.world.concepts)
