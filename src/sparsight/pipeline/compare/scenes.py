"""The world `scenes` as a comparison sees it: pictures that the model draws from prompts, each seed an emergence run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from sparsight.baselines.data import FitData
from sparsight.concepts.concept import Concept
from sparsight.diffusion.model import DiffusionModel
from sparsight.diffusion.sampling import Loop
from sparsight.errors import SparsightError
from sparsight.files import digest
from sparsight.metrics import QUADRANTS, PerceptualDistance, load_perceptual
from sparsight.pipeline.compare.scenes_images import FLAT, DrawnScenes
from sparsight.pipeline.compare.scenes_learning import LAYOUT, NEEDED, STYLE, emergence_runs, fit_data
from sparsight.pipeline.emergence.run import EmergenceRun
from sparsight.pipeline.emergence.stages import WORK
from sparsight.worlds.scenes.captions import STYLE_WORDS
from sparsight.worlds.scenes.domain import ScenesDomain
from sparsight.worlds.scenes.judging import ATTRIBUTES, JUDGES, PLACES, recognisable, related
from sparsight.worlds.scenes.scene import KINDS, STYLES

if TYPE_CHECKING:
    from sparsight.pipeline.compare.run import CompareRun


def concepts(start: str | None) -> dict[str, Concept]:
    """Every concept: a style by its name, a kind in a quadrant as "cat_top-left". No words say where a thing is.

    `start` is the style that prompts name already, which is no concept.
    """
    source = STYLE_WORDS[start] if start else ""
    styles = {s: Concept(s, source, STYLE_WORDS[s], s) for s in STYLES if s != start}
    placed = {f"{k}_{q}": Concept(f"{k}_{q}", k, k, f"{k}_{q}", thing=k, place=q) for k in KINDS for q in QUADRANTS}
    return styles | placed


class ScenesSubject(DrawnScenes):
    """Layout and style on pictures of the world `scenes`, drawn from captions of scenes that all name one style, or none.

    Image `n` of a split has the caption of scene `n` and noise of its own, the same for every seed and method.
    """

    def __init__(self, run: CompareRun) -> None:
        super().__init__()
        self.run = run
        self._data: dict[tuple[int, str, int], FitData] = {}

    @cached_property
    def runs(self) -> dict[int, EmergenceRun]:
        """The emergence run of each seed."""
        return emergence_runs(self.run)

    @property
    def first(self) -> EmergenceRun:
        """The emergence run of the first seed, for all that seeds have in common."""
        return self.runs[self.run.recipe.seeds[0]]

    @property
    def world(self) -> ScenesDomain:
        """The world, loaded once."""
        found = self.first.world
        assert isinstance(found, ScenesDomain)
        return found

    @property
    def model(self) -> DiffusionModel:
        """The model, loaded once."""
        found: DiffusionModel = self.first.model
        return found

    @property
    def style(self) -> str | None:
        """The style that all prompts name, if any."""
        return None if self.run.recipe.emergence.plain else FLAT

    @cached_property
    def concepts(self) -> Mapping[str, Concept]:
        """Every concept of the world, but the style that prompts name."""
        return concepts(self.style)

    @property
    def guidance(self) -> float:
        """How strongly prompts guide."""
        return self.first.recipe.sampling.guidance

    @property
    def judge(self) -> str:
        """Who fills the main figures, and chooses the images."""
        return self.run.recipe.judge

    @property
    def loop(self) -> Loop:
        """How all methods step."""
        return Loop(steps=self.first.recipe.sampling.steps, mode="plain")

    refine = 0
    attributes: Sequence[str] = ATTRIBUTES

    @property
    def shown(self) -> Sequence[str]:
        """All but the places of kinds that the recipe does not move."""
        moved = {self.concepts[name].thing for name in self.run.concepts}
        return [name for name in ATTRIBUTES if name not in PLACES or name.split("_")[0] in moved]

    @property
    def kinds(self) -> Mapping[str, Sequence[str]]:
        """Styles and layouts are ranked apart: not every method can do both."""
        by = {STYLE: lambda c: c.place is None, LAYOUT: lambda c: c.place is not None}
        found = {kind: [n for n in self.run.concepts if of(self.concepts[n])] for kind, of in by.items()}
        return {kind: names for kind, names in found.items() if names}

    @cached_property
    def _judges(self) -> Mapping[str, nn.Module]:
        return {name: judge(self.world) for name, judge in JUDGES.items()}

    @property
    def classifiers(self) -> Mapping[str, nn.Module]:
        """The judges."""
        return self._judges

    @cached_property
    def perceptual(self) -> PerceptualDistance:
        """The distance at which methods are matched."""
        return load_perceptual(
            lambda x: self.world.tagger(pixel_values=x, output_hidden_states=True).hidden_states,
            self.world.names["perceptual"],
        )

    @torch.no_grad()
    def identity(self, images: Tensor) -> Tensor:
        """Embeddings (n, d) of what is shown, in the world's CLIP."""
        found: Tensor = self.world.clip.image(images)
        return found

    def valid(self, images: Tensor) -> Tensor:
        """Whether each is still a scene: one style and one background for sure, and an object seen. bool (n,)."""
        return recognisable(self.world, images)

    @property
    def names(self) -> Mapping[str, str]:
        """The plain names of the networks behind the figures."""
        judges = {f"judge {name}": judge.name for name, judge in JUDGES.items()}
        return {"distance": self.perceptual.name, "identity": "the image tower of the world's CLIP, which sees styles as well",
                "judge": self.run.recipe.judge, **judges}  # fmt: skip

    words: Mapping[str, str] = {
        "images": "pictures", "valid": "recognisable scenes", "whole": "the whole change",
        "explained": "The whole change is the way from the mean logit of the unedited pictures to that of the world's own "
        "renderings that have the concept, as each judge sees them.",
        "few": "Latents are found on these images alone; the SAE is kept.",
        "inversion": "nothing is inverted: the model drew each image from a known noise, and draws it again bit for bit",
    }  # fmt: skip

    def key(self, seed: int) -> str:
        """A digest of the seed's SAEs and dictionaries, of what edits read of them and of how images are drawn."""
        run, source = self.runs[seed], self.run.recipe.emergence
        read = [[edit.site, edit.k] for edit in (run.recipe.layout, run.recipe.style)]
        said = ["plain"] if source.plain else []
        return digest([run.key("dictionary"), run.key("annotate"), read, source.layout, source.style, *said])

    def check(self) -> None:
        """Raise `SparsightError` where a run that shall serve is not there, not finished, or not of this world."""
        for seed, run in self.runs.items():
            run.check()
            if self.run.recipe.emergence.runs and not self.prepared(seed):
                raise SparsightError(
                    f"{run.folder} cannot serve: its stages up to dictionary are not done for its recipe"
                )

    def prepare(self, seed: int) -> None:
        """Harvest, annotate, train and make dictionaries, as far as that is not done. Runs that serve are only read."""
        run = self.runs[seed]
        if self.run.recipe.emergence.runs:
            return
        run.folder.mkdir(parents=True, exist_ok=True)
        run.save_recipe()
        for stage in NEEDED:
            run.do(stage, WORK[stage])

    def prepared(self, seed: int) -> bool:
        """Whether the stages before the edits are done."""
        return all(self.runs[seed].finished(stage) for stage in NEEDED)

    def costs(self, seed: int) -> Mapping[str, float]:
        """Seconds of the store, the SAEs, and what found latents. They are for all sites and stages of the run."""
        seconds = self.runs[seed].state["seconds"]
        found = seconds.get("annotate", 0.0) + seconds.get("dictionary", 0.0)
        return {"store": seconds.get("harvest", 0.0), "sae": seconds.get("train", 0.0), "latents": found}

    def learnable(self, seed: int) -> int:
        """How many annotated images methods may learn from at most."""
        return len(self.runs[seed].numbers("dictionary"))

    def data(self, seed: int, concept: str, images: int = 0) -> FitData:
        """What methods learn from, for the kind of the concept: the images of the run's dictionaries, or the first of them."""
        kind = LAYOUT if self.concepts[concept].place else STYLE
        if (seed, kind, images) not in self._data:
            self._data[seed, kind, images] = fit_data(self, self.runs[seed], kind, images)
        return self._data[seed, kind, images]

    def related(self, attribute: str) -> Sequence[str]:
        """Attributes that are no damage when they change with this one."""
        return related(attribute)

    def truth(self, split: str, numbers: Sequence[int], attribute: str) -> Tensor | None:
        """None: the renderer cannot draw again what the model drew."""
        return None
