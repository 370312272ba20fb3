"""A run: a recipe, a folder, and stages of which each is done once for the same inputs."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
import yaml

from sparsight.diffusion import DiffusionModel
from sparsight.errors import SparsightError, unknown
from sparsight.files import atomic, digest, read_json, write_json
from sparsight.pipeline.precision import settled
from sparsight.pipeline.recipe import Recipe, load_recipe
from sparsight.pipeline.reporter import Reporter, Silent

Work = Callable[[Any], None]


class Run:
    """A run folder with its recipe; world and model are loaded when first needed.

    Each experiment has a subclass that says which stages it has and, in `READS`, what each of them reads of the recipe
    beside what the stages before it read.
    """

    READS: ClassVar[Mapping[str, tuple[str, ...]]] = {}

    def __init__(self, folder: Path, recipe: Any, reporter: Reporter | None = None) -> None:
        self.folder, self.recipe = Path(folder), recipe
        self.report: Reporter = reporter or Silent()
        if recipe.threads:
            torch.set_num_threads(recipe.threads)

    @classmethod
    def open(cls, folder: str | Path, reporter: Reporter | None = None) -> Run:
        """An existing run, of whatever experiment. Raises `SparsightError` where the folder holds none."""
        path = Path(folder) / "recipe.yaml"
        if not path.exists():
            raise SparsightError(f"{folder} is no run folder: it has no recipe.yaml")
        return run_of(load_recipe(path), Path(folder), reporter)

    @classmethod
    def open_own(cls, folder: str | Path) -> Self:
        """An existing run of this very experiment. Raises `SparsightError` for one of another."""
        found = Run.open(folder)
        if not isinstance(found, cls):
            raise SparsightError(
                f"{folder} is a run of the experiment {found.recipe.experiment}, which has no use here"
            )
        return found

    @classmethod
    def stages(cls) -> tuple[str, ...]:
        """The names of the stages, in order."""
        return tuple(cls.READS)

    def work(self) -> Mapping[str, Work]:
        """What each stage does."""
        raise NotImplementedError

    def check(self) -> None:
        """Raise `SparsightError` for a recipe that cannot be run, before anything is written."""

    @cached_property
    def world(self) -> Any:
        """The world of the recipe."""
        raise NotImplementedError

    @cached_property
    def model(self) -> Any:
        """The world's model, in the recipe's precision."""
        model = DiffusionModel.load(self.world.model)
        model.precision = self.recipe.precision
        return model

    def plain(self) -> dict[str, Any]:
        """The recipe as digests see it."""
        return self.recipe.plain()

    def key(self, stage: str) -> str:
        """A digest of everything that this stage depends on."""
        plain, stages = self.plain(), self.stages()
        reads = [name for s in stages[: stages.index(stage) + 1] for name in self.READS[s]]
        return digest({"model": self.model.fingerprint(), **{name: plain[name] for name in reads}})

    @property
    def state(self) -> dict[str, Any]:
        """run.json: which stages are done, for which inputs, and how long they took."""
        path = self.folder / "run.json"
        return read_json(path) if path.exists() else {"stages": {}, "seconds": {}, "versions": {}}

    def finished(self, stage: str) -> bool:
        """Whether a stage is done for what the recipe now says."""
        return bool(self.state["stages"].get(stage) == self.key(stage))

    def save_recipe(self) -> None:
        """Write recipe.yaml; a folder that holds another recipe's run keeps what is still valid of it."""
        with atomic(self.folder / "recipe.yaml") as temporary:
            temporary.write_text(yaml.safe_dump(self.recipe.plain(), sort_keys=False), "utf-8")

    def own_folder(self, name: str, stage: str) -> Path:
        """A folder of the run for a stage, emptied if other inputs made what is in it; else that is continued."""
        folder, key = self.folder / name, self.key(stage)
        marker = folder / "key.txt"
        if folder.exists() and (not marker.exists() or marker.read_text() != key):
            shutil.rmtree(folder)
        folder.mkdir(parents=True, exist_ok=True)
        marker.write_text(key)
        return folder

    def do(self, stage: str, work: Work) -> None:
        """Do a stage unless it is already done for the same inputs."""
        if self.finished(stage):
            self.report.finish(stage, self.state["seconds"].get(stage, 0.0), cached=True)
            return
        self.report.start(stage)
        began = time.monotonic()
        work(self)
        seconds = time.monotonic() - began
        state = self.state
        state["stages"][stage] = self.key(stage)
        state["seconds"][stage] = round(seconds, 1)
        state["versions"] = versions()
        write_json(self.folder / "run.json", state)
        self.report.finish(stage, seconds, cached=False)


def versions() -> dict[str, str]:
    """The packages whose version can change a number."""
    names = ("sparsight", "torch", "diffusers", "transformers", "scikit-learn", "dicebear-styles", "resvg-py")
    return {name: version(name) for name in names}


def run_of(recipe: Recipe, folder: Path, reporter: Reporter | None = None) -> Run:
    """The run of a recipe's experiment in `folder`, its precision settled; nothing is written."""
    recipe = settled(recipe, folder)
    if recipe.experiment == "emergence":
        from sparsight.pipeline.emergence.run import EmergenceRun

        return EmergenceRun(folder, recipe, reporter)
    if recipe.experiment == "compare":
        from sparsight.pipeline.compare.run import CompareRun

        return CompareRun(folder, recipe, reporter)
    from sparsight.pipeline.casl.run import CaslRun

    return CaslRun(folder, recipe, reporter)


def run_recipe(
    recipe: Recipe, folder: Path, reporter: Reporter | None = None, command: str = "", until: str = "report"
) -> Any:
    """Do every stage up to `until` that is not already done; a killed run goes on where it stopped."""
    run = run_of(recipe, folder, reporter)
    stages = run.stages()
    if until not in stages:
        raise unknown("stage", until, stages)
    run.check()
    run.save_recipe()
    if command:
        write_json(run.folder / "run.json", {**run.state, "command": command})
    for stage in stages[: stages.index(until) + 1]:
        run.do(stage, run.work()[stage])
    return run
