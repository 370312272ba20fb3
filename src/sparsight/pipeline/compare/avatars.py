"""The world `avatars` as a comparison sees it: each seed is a CASL run in a folder of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from sparsight.baselines.data import FitData
from sparsight.concepts.concept import Concept
from sparsight.diffusion.conditioning import Conditioning
from sparsight.diffusion.model import DiffusionModel
from sparsight.diffusion.sampling import Loop
from sparsight.errors import SparsightError
from sparsight.files import digest
from sparsight.metrics import PerceptualDistance, load_perceptual
from sparsight.pipeline.casl.recipe import CaslRecipe
from sparsight.pipeline.casl.run import CaslRun
from sparsight.pipeline.compare.learning import fit_data
from sparsight.pipeline.recipe import load_recipe

if TYPE_CHECKING:
    from sparsight.pipeline.compare.run import CompareRun

SHOWN = "the distance of features of the world's VGG classifier (LPIPS-type, unweighted)"


class AvatarsSubject:
    """Faces of the world `avatars`. Every seed is a CASL run in the folder `seedN` of the comparison."""

    def __init__(self, run: CompareRun) -> None:
        self.run = run
        self._casl: dict[int, CaslRun] = {}
        self._keys: dict[int, str] = {}
        self._data: dict[tuple[int, int], FitData] = {}

    def casl(self, seed: int) -> CaslRun:
        """The CASL run of a seed."""
        if seed not in self._casl:
            own, recipe = self.run.recipe.casl, self.run.recipe
            kind = load_recipe(own.recipe)
            if not isinstance(kind, CaslRecipe):
                raise SparsightError(f"casl.recipe must be one of CASL, and {own.recipe} is one of {kind.experiment}")
            keys = [
                *own.set, f"seed={seed}", f"concepts=[{', '.join(recipe.concepts)}]", f"world={recipe.world}",
                f"precision={recipe.precision}", f"threads={recipe.threads}",
            ]  # fmt: skip
            loaded = load_recipe(own.recipe, keys)
            found = CaslRun(self.run.folder / f"seed{seed}", loaded, self.run.report)
            if seed != recipe.seeds[0]:  # networks are the same for all seeds, and loaded once
                found.world, found.model = self.first.world, self.first.model
            self._casl[seed] = found
        return self._casl[seed]

    @cached_property
    def first(self) -> CaslRun:
        """The CASL run of the first seed, for all that seeds have in common."""
        return self.casl(self.run.recipe.seeds[0])

    @property
    def world(self) -> Any:
        """The world, loaded once."""
        return self.first.world

    @property
    def model(self) -> DiffusionModel:
        """The model, loaded once."""
        found: DiffusionModel = self.first.model
        return found

    @property
    def loop(self) -> Loop:
        """How all methods step."""
        return Loop(steps=self.first.recipe.steer.steps, mode=self.first.recipe.steer.mode)

    @property
    def refine(self) -> int:
        """Refinements of a step of the inversion."""
        return int(self.first.recipe.steer.refine)

    @property
    def attributes(self) -> Sequence[str]:
        """What the classifiers judge, in the order of their logits."""
        found: Sequence[str] = self.world.attributes
        return found

    @property
    def shown(self) -> Sequence[str]:
        """All of them."""
        return self.attributes

    @property
    def kinds(self) -> Mapping[str, Sequence[str]]:
        """One kind."""
        return {"faces": self.run.concepts}

    words: Mapping[str, str] = {
        "images": "faces", "valid": "valid faces", "whole": "the true change", "inversion": "",
        "few": "CASL's alignment, where it is asked, is learned from the text pair and these images; its SAE is kept.",
    }  # fmt: skip

    @property
    def concepts(self) -> Mapping[str, Concept]:
        """Concepts by name."""
        found: Mapping[str, Concept] = self.world.concepts
        return found

    @property
    def classifiers(self) -> Mapping[str, nn.Module]:
        """The judges, by backbone."""
        found: Mapping[str, nn.Module] = self.world.classifiers
        return found

    @cached_property
    def perceptual(self) -> PerceptualDistance:
        """The distance at which methods are matched."""
        return load_perceptual(lambda x: self.world.classifiers["vgg"].features(x), SHOWN)

    def identity(self, images: Tensor) -> Tensor:
        """Embeddings (n, d) of who is shown."""
        found: Tensor = self.world.identity(images)
        return found

    def valid(self, images: Tensor) -> Tensor:
        """Whether each image is still a face of the world: bool (n,)."""
        found: Tensor = self.world.validity(images)
        return found

    @property
    def names(self) -> Mapping[str, str]:
        """The plain names of the networks behind the figures."""
        return {"distance": SHOWN, "identity": "the world's identity network", "judge": self.run.recipe.judge}

    def key(self, seed: int) -> str:
        """A digest of the seed's SAE and of how alignments are learned and edits sampled."""
        if seed not in self._keys:  # asked of every cell
            casl = self.casl(seed)
            plain = casl.plain()
            steer = {name: plain["steer"][name] for name in ("steps", "mode", "refine", "low", "high")}
            self._keys[seed] = digest([casl.key("train"), plain["align"], steer])
        return self._keys[seed]

    def check(self) -> None:
        """Nothing beyond what every comparison checks."""

    def prepare(self, seed: int) -> None:
        """Harvest, train and align, as far as that is not done."""
        casl = self.casl(seed)
        casl.save_recipe()
        for stage in ("harvest", "train", "align"):
            casl.do(stage, casl.work()[stage])

    def prepared(self, seed: int) -> bool:
        """Whether the stages before the edits are done."""
        casl = self.casl(seed)
        return all(casl.finished(stage) for stage in ("harvest", "train", "align"))

    def costs(self, seed: int) -> Mapping[str, float]:
        """Seconds of the store and the SAE, which all concepts share, and of one concept's alignment, with its control."""
        seconds = self.casl(seed).state["seconds"]
        align = seconds.get("align", 0.0) / max(1, len(self.run.recipe.concepts))
        return {"store": seconds.get("harvest", 0.0), "sae": seconds.get("train", 0.0), "alignments": align}

    def learnable(self, seed: int) -> int:
        """How many images of the store methods may learn from at most."""
        casl = self.casl(seed)
        return len(casl.train_numbers) + len(casl.held_out_numbers)

    def data(self, seed: int, concept: str, images: int = 0) -> FitData:
        """What methods learn from, the same for all concepts: the seed's training images.

        With `images` the first so many of its store.
        """
        if (seed, images) not in self._data:
            self._data = {key: kept for key, kept in self._data.items() if not key[1]}  # few-shot data are used once
            self._data[seed, images] = fit_data(self, self.casl(seed), images)
        return self._data[seed, images]

    def related(self, attribute: str) -> Sequence[str]:
        """Attributes that are no damage when they change with this one."""
        found: Sequence[str] = self.world.related(attribute)
        return found

    def eligible(self, split: str, attributes: Sequence[str], count: int) -> list[int]:
        """The first `count` faces that lack all the attributes and could have each by changing one factor alone."""
        looked = count
        while True:
            lists = [self.world.eligible(split, attribute, looked) for attribute in attributes]
            last = min(numbers[-1] for numbers in lists)
            common = [n for n in lists[0] if n <= last and all(n in set(other) for other in lists[1:])]
            if len(common) >= count:
                return common[:count]
            looked *= 2

    def images(self, split: str, numbers: Sequence[int]) -> Tensor:
        """The images as the world draws them."""
        found: Tensor = self.world.source(split).batch(numbers)
        return found

    def noise(self, split: str, numbers: Sequence[int]) -> Tensor | None:
        """None: they are inverted."""
        return None

    def conditioning(self, split: str, numbers: Sequence[int]) -> Conditioning | None:
        """None: a model without prompts."""
        return None

    def exemplars(self, attribute: str) -> Tensor | None:
        """None: there is a truth."""
        return None

    def truth(self, split: str, numbers: Sequence[int], attribute: str) -> Tensor | None:
        """The true counterfactuals."""
        with torch.no_grad():
            found: Tensor = self.world.counterfactuals(split, numbers, attribute)
        return found
