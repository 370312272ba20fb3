"""A run of the emergence experiment: what its stages share."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from torch import Tensor

from sparsight.activations import PromptStream, Store, start_noise
from sparsight.concepts import ConceptDictionary, WordVectors, open_words
from sparsight.diffusion import Conditioning
from sparsight.errors import SparsightError, unknown
from sparsight.pipeline.emergence.domain import Domain
from sparsight.pipeline.emergence.own_models import OwnDomain
from sparsight.pipeline.emergence.recipe import STAGES, EmergenceRecipe
from sparsight.pipeline.run import Run, Work
from sparsight.prompts import PromptSource
from sparsight.sae import SAE
from sparsight.worlds.scenes.domain import ScenesDomain

HALVES = ("cond", "uncond")


class EmergenceRun(Run):
    """Prompts of a text-to-image model: SAEs by site, stage and half of guidance, dictionaries, readings, edits."""

    READS: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "harvest": ("world", "own", "seed", "precision", "sites", "between", "prompts", "sampling"),
        "annotate": (),
        "train": ("k", "sae"),
        "dictionary": ("words", "dictionary"),
        "read": (),
        "layout": ("objects", "layout", "calibrate"),
        "style": ("styles", "style"),
        "evaluate": (),
        "report": ("name",),
    }
    recipe: EmergenceRecipe

    def work(self) -> Mapping[str, Work]:
        """What each stage does."""
        from sparsight.pipeline.emergence.stages import WORK

        return WORK

    def check(self) -> None:
        """Names that the world or the model does not know are found before anything is written."""
        for name in self.recipe.sites:
            self.model.site(name)
        for chosen, known, what in (
            (self.recipe.objects, self.world.kinds, "object"), (self.recipe.styles, self.world.styles, "style")
        ):  # fmt: skip
            for name in chosen:
                if name not in known:
                    raise unknown(what, name, known)
        self.streams()  # says what is wrong with the steps and the guidance
        self.world.require()

    @cached_property
    def world(self) -> Domain:
        """What the recipe is about: "scenes", a folder of that world's models, or "own" models."""
        name = self.recipe.world
        if name == "own":
            return OwnDomain(self.recipe.own)
        if name.removeprefix("worlds/") == "scenes":
            return ScenesDomain()
        if not Path(name).is_dir():
            raise SparsightError(
                f"this needs a world with prompts and masks, and {name!r} is none: use scenes, the folder that "
                "`sparsight world build scenes` wrote, or own"
            )
        return ScenesDomain(Path(name))

    @cached_property
    def prompts(self) -> PromptSource:
        """Every prompt of the run, by number."""
        return self.world.prompts

    def numbers(self, use: str) -> list[int]:
        """The numbers of the prompts of a use: "train", "held_out", "dictionary", "validation" or "test"."""
        start = 0
        for name, count in vars(self.recipe.prompts).items():
            if name == use:
                return list(range(start, start + count))
            start += count
        raise unknown("use of prompts", use, vars(self.recipe.prompts))

    @cached_property
    def steps_at(self) -> dict[str, int]:
        """The step that each stage is read at: the first, the middle (24 of 50) and the last."""
        steps = self.recipe.sampling.steps
        if steps < 5:
            raise SparsightError(f"{steps} steps are too few for three stages: use 5 or more")
        return dict(zip(STAGES, (0, (steps - 1) // 2, steps - 1), strict=True))

    def stamp(self, stage: str) -> int:
        """The timestep that a stage is read at."""
        return self.model.pairs(self.recipe.sampling.steps)[self.steps_at[stage]][0]

    @cached_property
    def spread(self) -> tuple[int, ...]:
        """The steps that the SAE across time has seen: the three stages' and others between them."""
        last, count = self.recipe.sampling.steps - 1, self.recipe.between
        even = {round(i * last / max(1, count - 1)) for i in range(count)}
        return tuple(sorted(even | set(self.steps_at.values()))) if count else ()

    def streams(self) -> dict[str, PromptStream]:
        """Every stream of the harvest: SITE.STAGE.HALF, and SITE.all.cond where SAEs across time are wanted."""
        found = {
            stream_name(site, stage, half): self._stream(site, (at,), half)
            for site in self.recipe.sites
            for stage, at in self.steps_at.items()
            for half in HALVES
        }
        across = {stream_name(s, "all", "cond"): self._stream(s, self.spread, "cond") for s in self.recipe.sites}
        return found | (across if self.spread else {})

    def _stream(self, site: str, at: tuple[int, ...], half: str) -> PromptStream:
        s = self.recipe.sampling
        return PromptStream(
            site=site, steps=s.steps, guidance=s.guidance, batch_size=s.batch_size, seed=self.recipe.seed, at=at,
            conditioning=half,
        )  # fmt: skip

    def store(self, stream: str) -> Store:
        """A stream's store, checked against the run's model."""
        store = Store.open(self.folder / "stores" / stream, verify=False)
        store.require(model_hash=self.model.fingerprint(), site=self.streams()[stream].site)
        return store

    def sae(self, stream: str, k: int) -> SAE:
        """The SAE of a stream."""
        return SAE.from_pretrained(self.folder / "saes" / f"{stream}.k{k}")

    def dictionary(self, name: str) -> ConceptDictionary:
        """A dictionary by the name of its SAE."""
        return ConceptDictionary.load(self.folder / "dictionaries" / name)

    @cached_property
    def words(self) -> WordVectors:
        """The word vectors of the recipe."""
        return open_words(self.recipe.words)

    def told(self, prompts: list[str]) -> Conditioning:
        """Prompts as the model is told them."""
        return self.model.encode_prompts(prompts, guidance=self.recipe.sampling.guidance)

    def noise(self, numbers: list[int]) -> Tensor:
        """The noise that images of these numbers start from."""
        return start_noise(self.model, self.recipe.seed, numbers)


def stream_name(site: str, stage: str, half: str) -> str:
    """What a stream is called, on disk too."""
    return f"{site.replace(':', '-')}.{stage}.{half}"


def short(site: str) -> str:
    """A site's block in the paper's words: "down", "mid" or "up"."""
    return site.split("_")[0]
