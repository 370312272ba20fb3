"""What a method may be given to learn from. Everything costly is a source that is opened when first asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

import sparsight.baselines.method as needs
from sparsight.activations.store import Store
from sparsight.concepts.alignment import Alignment
from sparsight.concepts.concept import Concept
from sparsight.concepts.paths import ClipModel
from sparsight.diffusion.model import DiffusionModel
from sparsight.diffusion.sampling import Loop
from sparsight.errors import SparsightError, unknown
from sparsight.images import ImageSource
from sparsight.metrics import PerceptualDistance
from sparsight.sae import SAE
from sparsight.steering import Window

ABOUT_THE_MODEL = (needs.GRADIENTS, needs.TEXT_TO_IMAGE)
SAMPLE = 96  # images whose tokens say what one strength is


@dataclass(frozen=True)
class FitData:
    """The same for every method: a model, a site, a window, the images that may be learned from, and sources.

    `sources` maps names out of `NEEDS` to functions without arguments; the property of the same name calls one once.
    `numbers` are the images of the store, the image source and the labels that may be used. `loop` is how edits will
    be sampled. `granted` is what may be asked for (None: all).
    """

    model: DiffusionModel
    site: str = "mid_block"
    window: Window = field(default_factory=Window)
    numbers: tuple[int, ...] = ()
    loop: Loop = field(default_factory=Loop)
    seed: int = 0
    sources: Mapping[str, Callable[[], Any]] = field(default_factory=dict)
    granted: frozenset[str] | None = None
    opened: dict[Any, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        for name in self.sources:
            if name not in needs.NEEDS or name in ABOUT_THE_MODEL:
                raise unknown("source", name, [n for n in needs.NEEDS if n not in ABOUT_THE_MODEL])

    def only(self, granted: frozenset[str]) -> FitData:
        """The same data for a method that may ask for `granted` and nothing else."""
        return replace(self, granted=granted)

    def has(self, need: str) -> bool:
        """Whether a need is met, without opening anything."""
        if need == needs.TEXT_TO_IMAGE:
            return self.model.takes_prompts
        return need == needs.GRADIENTS or need in self.sources

    def source(self, name: str) -> Any:
        """What a source gives. Raises `SparsightError` for one that was not declared, and for one that is not there."""
        if self.granted is not None and name not in self.granted:
            raise SparsightError(f"this method asks for {name!r} without declaring it in `needs`")
        if name not in self.sources:
            raise SparsightError(f"there is no {name!r}: the method needs {needs.NEEDS[name]}")
        opener = self.sources[name]
        if opener not in self.opened:
            self.opened[opener] = opener()
        return self.opened[opener]

    @property
    def store(self) -> Store:
        """Activations of the site, with x_t."""
        store = self.source(needs.STORE)
        store.require(model_hash=self.model.fingerprint(), site=self.site)
        return store

    @property
    def sae(self) -> SAE:
        """The SAE of the site."""
        return self.source(needs.SAE)

    @property
    def images(self) -> ImageSource:
        """Training images, by number."""
        return self.source(needs.IMAGES)

    @property
    def clip(self) -> ClipModel:
        """Two towers with one embedding space."""
        return self.source(needs.TEXT)

    @property
    def perceptual(self) -> PerceptualDistance:
        """A distance of images."""
        return self.source(needs.PERCEPTUAL)

    def labels(self, concept: Concept | str) -> Tensor:
        """For each of `numbers`, whether (bool) or how surely (float) the image shows the concept: (n,).

        The source is a function of (attribute, numbers). Raises `SparsightError` for a concept that no label judges.
        """
        name = concept if isinstance(concept, str) else concept.attribute
        if name is None:
            raise SparsightError(f"no label judges the concept {getattr(concept, 'name', concept)!r}")
        return torch.as_tensor(self.source(needs.LABELS)(name, self.numbers))

    def alignment(self, concept: Concept, basis: str = "latents") -> Alignment:
        """CASL's alignment of the concept; the source is a function of (concept, basis)."""
        return self.source(needs.ALIGNMENTS)(concept, basis)

    def latents(self, concept: Concept, by: str, count: int) -> tuple[int, ...]:
        """The `count` latents that best stand for the concept, found as `by` says; the source is a function of all three."""
        return self.source(needs.LATENTS)(concept, by, count)

    def pairs(self, concept: Concept) -> tuple[Tensor, Tensor]:
        """Images (n, 3, H, W) before and after the edit; the source is a function of the concept."""
        return self.source(needs.PAIRS)(concept)

    def stamps(self) -> list[int]:
        """The store's timesteps inside the window, noisy to clean. Raises `SparsightError` where there are none."""
        stamps = sorted((t for t in self.store.spec.timesteps if t in self.window), reverse=True)
        if not stamps:
            raise SparsightError(
                f"the store {self.store} has no timestep from {self.window.low} to {self.window.high}, where edits act"
            )
        return stamps

    def chunks(
        self, *columns: str, numbers: Sequence[int] | None = None, size: int = 32
    ) -> Iterator[dict[str, Tensor]]:
        """The window's rows of the store, `size` images at a time: "image", "t" and `columns` ("tokens", "x_t")."""
        numbers, stamps = list(self.numbers if numbers is None else numbers), torch.tensor(self.stamps())
        for start in range(0, len(numbers), size):
            rows = self.store.load(*columns, "image", "t", images=numbers[start : start + size])
            inside = torch.isin(rows["t"], stamps)
            yield {name: column[inside] for name, column in rows.items()}

    def at(self, t: int, *columns: str) -> dict[str, Tensor]:
        """Columns of the store at one timestep, a row for each of `numbers` and in their order."""
        found = self.store.load(*columns, "image", images=list(self.numbers), t=t)
        place = {int(number): row for row, number in enumerate(found["image"])}
        if missing := [n for n in self.numbers if n not in place]:
            raise SparsightError(f"the store {self.store} lacks image {missing[0]} at timestep {t}")
        order = torch.tensor([place[n] for n in self.numbers])
        return {name: found[name][order] for name in columns}

    def sample(self) -> dict[str, Tensor]:
        """ "tokens" (M, N, C) fp32, "image" and "t" of the first images inside the window: what units are measured on."""
        key = ("sample", str(self.store), self.window, self.numbers)
        if key not in self.opened:
            (self.opened[key],) = self.chunks("tokens", numbers=self.numbers[:SAMPLE], size=SAMPLE)
        return self.opened[key]
