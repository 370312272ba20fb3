"""What a comparison is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sparsight.baselines.method import Method
from sparsight.baselines.registry import METHODS, method
from sparsight.errors import SparsightError, unknown
from sparsight.pipeline.emergence.recipe import STAGES
from sparsight.pipeline.recipe import Recipe

SEEDS = 100  # images of a seed lie behind those of all seeds before it, which have to be looked at


@dataclass(frozen=True)
class CaslConfig:
    """The CASL run that each seed's store, SAE and alignments come from: a recipe, and keys of it to `set`.

    Its section `steer` says how all methods step (`steps`, `mode`, `refine`) and where they act (`low`, `high`).
    """

    recipe: str = "avatars"
    set: tuple[str, ...] = ()


@dataclass(frozen=True)
class EmergenceConfig:
    """On scenes: the emergence run that each seed's store, SAEs and dictionaries come from: a recipe, and keys of it to `set`.

    Its `sampling` says how images are drawn, its `layout` and `style` at which site and with which k they are edited;
    `layout` and `style` here are the stages whose SAE and window these edits have. `runs` names finished runs that serve
    instead, one for each seed; they are only read. Prompts name the style that images start in; `plain` ones name none.
    """

    recipe: str = "scenes"
    set: tuple[str, ...] = ()
    runs: tuple[str, ...] = ()
    layout: str = "early"
    style: str = "early"
    plain: bool = False

    def __post_init__(self) -> None:
        for stage in (self.layout, self.style):
            if stage not in STAGES:
                raise unknown("stage", stage, STAGES)


@dataclass(frozen=True)
class FewConfig:
    """Few-shot: `methods` are fitted again on the first `counts` images (or labels), with the first seed alone."""

    methods: tuple[str, ...] = ()
    concepts: tuple[str, ...] = ()
    counts: tuple[int, ...] = (10, 30, 100, 300, 1000)
    test: int = 32


@dataclass(frozen=True)
class TwoConfig:
    """Two concepts at once, each at the strength that its own cell found for the perceptual distance `level`."""

    methods: tuple[str, ...] = ()
    pairs: tuple[tuple[str, str], ...] = ()
    level: float = 0.4
    test: int = 32


@dataclass(frozen=True)
class CompareRecipe(Recipe):
    """A comparison. `methods` names those to ask, none for all; `options` are theirs, by name.

    `variants` adds methods under other names: {NAME: {method: METHOD, option: value}}. `levels` are the perceptual distances
    at which all are compared, found for each on `validation` images to within the share `tolerance`. `judge` is the
    classifier that fills the main figures; all of the world's are used. `workers` processes share the cells. `ours` is the
    method that pages bring out and that others are measured against in pairs. `curves_on` "validation" draws the figures on
    other validation images than the search's: for choosing between methods. A seed says which images are its own, too:
    whether one run does several seeds or each has a run of its own, they come to the same.
    """

    experiment: str = "compare"
    world: str = "avatars"
    seeds: tuple[int, ...] = (0,)
    concepts: tuple[str, ...] = ("Smiling",)
    methods: tuple[str, ...] = ()
    options: dict[str, dict[str, Any]] = field(default_factory=dict)
    variants: dict[str, dict[str, Any]] = field(default_factory=dict)
    levels: tuple[float, ...] = (0.1, 0.2, 0.4, 0.8)
    tolerance: float = 0.1
    validation: int = 12
    test: int = 64
    judge: str = "resnet"
    curves_on: str = "test"
    workers: int = 1
    ours: str = "casl"
    casl: CaslConfig = field(default_factory=CaslConfig)
    emergence: EmergenceConfig = field(default_factory=EmergenceConfig)
    few: FewConfig = field(default_factory=FewConfig)
    two: TwoConfig = field(default_factory=TwoConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.seed:
            raise SparsightError(f"a comparison has `seeds`, a list, and no seed of its own: write seeds=[{self.seed}]")
        if self.curves_on not in ("test", "validation"):
            raise unknown("images for the curves", self.curves_on, ("test", "validation"))
        for what, least in (("seeds", len(self.seeds)), ("concepts", len(self.concepts)), ("levels", len(self.levels)),
                            ("validation", self.validation), ("test", self.test), ("workers", self.workers)):  # fmt: skip
            if least < 1:
                raise SparsightError(f"a comparison needs at least one of {what!r}")
        if not all(0 <= seed < SEEDS for seed in self.seeds) or len(set(self.seeds)) < len(self.seeds):
            raise SparsightError(
                f"seeds must be different numbers from 0 to {SEEDS - 1}, and are {list(self.seeds)}: a seed's images follow "
                "those of the seeds before it"
            )
        if list(self.levels) != sorted(set(self.levels)) or self.levels[0] <= 0:
            raise SparsightError(f"levels must rise from above 0, and are {list(self.levels)}")
        if max(self.few.test, self.two.test) > self.test and (self.few.methods or self.two.methods):
            raise SparsightError("few.test and two.test take their images from the `test` ones and cannot be more")

    def entries(self) -> Mapping[str, Method]:
        """Every method that is asked, by the name it has here. Raises `SparsightError` for a name or an option unknown."""
        asked = self.methods or (*METHODS, *self.variants)
        for name in (*asked, *self.options, *self.few.methods, *self.two.methods):
            if name not in self.entries_known():
                raise unknown("method", name, self.entries_known(), limit=40)
        return {name: self._entry(name) for name in dict.fromkeys((*asked, *self.few.methods, *self.two.methods))}

    def entries_known(self) -> list[str]:
        """Every name that a method can have here."""
        return [*METHODS, *self.variants]

    def _entry(self, name: str) -> Method:
        options = {**self.variants.get(name, {"method": name}), **self.options.get(name, {})}
        if "method" not in options:
            raise SparsightError(f"the variant {name!r} has to say which method it is of, as `method: NAME`")
        kind = options.pop("method")
        return method(str(kind), **{k: tuple(v) if isinstance(v, list) else v for k, v in options.items()})

    def entry_options(self, name: str) -> dict[str, Any]:
        """What the recipe says of one method."""
        return {**self.variants.get(name, {"method": name}), **self.options.get(name, {})}
