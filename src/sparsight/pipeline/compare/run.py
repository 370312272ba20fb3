"""A run of the comparison: what its stages share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from sparsight.baselines.method import Method
from sparsight.concepts import choose
from sparsight.errors import SparsightError, unknown
from sparsight.files import digest
from sparsight.pipeline.compare.avatars import AvatarsSubject
from sparsight.pipeline.compare.cells import failure, plan, reasons, standing
from sparsight.pipeline.compare.recipe import CompareRecipe
from sparsight.pipeline.compare.scenes import ScenesSubject
from sparsight.pipeline.compare.subject import Subject
from sparsight.pipeline.run import Run, Work

AFTER_EDITS = ("evaluate", "report")


class CompareRun(Run):
    """Every method on the same images: artefacts of each seed, inversions, edits cell by cell, figures, a page."""

    READS: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "prepare": ("world", "seeds", "precision", "concepts", "casl"),
        "invert": ("test", "validation", "two", "curves_on"),
        "edit": ("methods", "options", "variants", "levels", "tolerance", "judge", "few"),
        "evaluate": ("ours",),
        "report": ("name",),
    }
    recipe: CompareRecipe

    def work(self) -> Mapping[str, Work]:
        """What each stage does."""
        from sparsight.pipeline.compare.stages import WORK

        return WORK

    def check(self) -> None:
        """Unknown concepts, methods, options and judges are found before anything is written."""
        recipe = self.recipe
        _ = self.entries
        _ = self.few_concepts, self.pairs
        if recipe.ours not in recipe.entries_known():
            raise unknown("method of our own", recipe.ours, recipe.entries_known(), limit=40)
        self.subject.check()
        if recipe.judge not in self.subject.classifiers:
            raise unknown("judge", recipe.judge, self.subject.classifiers)
        most = self.subject.learnable(recipe.seeds[0])
        if recipe.few.methods and max(recipe.few.counts) > most:
            raise SparsightError(
                f"few.counts asks for {max(recipe.few.counts)} images, but the store has {most}: make its store larger"
            )
        if recipe.two.pairs and recipe.two.level not in recipe.levels:
            raise SparsightError(f"two.level is {recipe.two.level}, which is none of the levels {list(recipe.levels)}")

    @cached_property
    def subject(self) -> Subject:
        """What is compared on."""
        name = self.recipe.world.removeprefix("worlds/")
        if name == "avatars":
            return AvatarsSubject(self)
        if name != "scenes" and not Path(self.recipe.world).is_dir():
            raise unknown("world of a comparison", self.recipe.world, ("avatars", "scenes"))
        return ScenesSubject(self)

    @property
    def world(self) -> Any:
        """The subject's world."""
        return self.subject.world  # type: ignore[attr-defined]

    @property
    def model(self) -> Any:
        """The subject's model."""
        return self.subject.model

    @cached_property
    def concepts(self) -> tuple[str, ...]:
        """The recipe's concepts, as the world spells them."""
        return tuple(c.name for c in choose(self.recipe.concepts, self.subject.concepts))

    @cached_property
    def few_concepts(self) -> tuple[str, ...]:
        """The concepts of few-shot fits, out of the recipe's own."""
        return self._among(self.recipe.few.concepts)

    @cached_property
    def pairs(self) -> tuple[str, ...]:
        """The pairs of concepts that are edited at once, as "A+B"."""
        return tuple("+".join(self._among(pair)) for pair in self.recipe.two.pairs)

    def _among(self, names: Sequence[str]) -> tuple[str, ...]:
        known = {name: self.subject.concepts[name] for name in self.concepts}
        return tuple(c.name for c in choose(names, known, "concept of few-shot or two-concept edits"))

    @cached_property
    def entries(self) -> Mapping[str, Method]:
        """Every method that is asked."""
        return self.recipe.entries()

    @cached_property
    def not_applicable(self) -> Mapping[str, str]:
        """Methods that can edit none of the concepts, and why they cannot."""
        whole = {name: by for name, by in self.unfit.items() if len(by) == len(self.concepts)}
        return {name: "; ".join(dict.fromkeys(by.values())) for name, by in whole.items()}

    @cached_property
    def unfit(self) -> Mapping[str, Mapping[str, str]]:
        """Methods that are asked for what they cannot do: for each the concepts, and why."""
        return reasons(self)

    def plain(self) -> dict[str, Any]:
        """The recipe as digests see it: of the runs of its seeds, everything that they rest on."""
        seeds = [self.subject.key(seed) for seed in self.recipe.seeds]
        return {**super().plain(), "casl": seeds}  # whatever kind of runs they are

    def key(self, stage: str) -> str:
        """A digest of what the stage rests on; what follows the edits also rests on which of them are there."""
        own = super().key(stage)
        return digest([own, standing(self)]) if stage in AFTER_EDITS else own

    def finished(self, stage: str) -> bool:
        """Cells that failed or were lost are tried again, so that the edits are done only when each one is."""
        if not all(self.subject.prepared(seed) for seed in self.recipe.seeds):
            return False  # without an SAE some methods cannot even be asked whether they apply
        if stage == "edit" and any(state != "done" for _, state in standing(self)):
            return False
        return super().finished(stage)

    def failures(self) -> dict[str, str]:
        """The error of every cell that failed, by what it is."""
        return {cell.text: why for cell in plan(self) if (why := failure(self, cell)) is not None}
