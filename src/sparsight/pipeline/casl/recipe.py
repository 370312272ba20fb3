"""What a CASL run is asked for."""

from __future__ import annotations

from dataclasses import dataclass, field

from sparsight.activations.harvest import HarvestConfig
from sparsight.concepts.learn import AlignConfig
from sparsight.errors import SparsightError
from sparsight.pipeline.recipe import Recipe
from sparsight.sae import TrainConfig


@dataclass(frozen=True)
class DataConfig:
    """How many images: for the SAE and the alignment (`train`), and unseen ones for SAE metrics and probes (`held_out`)."""

    train: int = 1000
    held_out: int = 256


@dataclass(frozen=True)
class SteerConfig:
    """How to steer and what to try.

    Runs of `steps` steps, stepping `mode`, edits in `low` ... `high`, the top `k` latents under `ranking`. `alphas` are
    tried from weak to strong; one alpha is one mean norm of the shift for every method. `sweep_k` x `sweep_alphas`
    is drawn on the first `sweep_images` test images.

    With `candidates` above 0 that many best latents are tried one by one on `screen` validation faces and put in the
    order of what they do there; 0 keeps the ranking's own order, as the paper does. With `refit` above 0 the columns of
    the latents that are steered are learned again, alone, in that many updates; 0 keeps the alignment's, as the paper.
    """

    steps: int = 50
    mode: str = "asymmetric"
    refine: int = 0
    low: int = 500
    high: int = 999
    k: int = 1
    ranking: str = "l2"
    candidates: int = 0
    screen: int = 12
    refit: int = 0
    alphas: tuple[float, ...] = (2, 4, 8, 16, 32, 64, 128)
    validation: int = 16
    test: int = 32
    sweep_k: tuple[int, ...] = (1, 2, 4, 8, 16)
    sweep_alphas: tuple[float, ...] = (4, 8, 16, 32, 64)
    sweep_images: int = 16


@dataclass(frozen=True)
class CaslRecipe(Recipe):
    """A CASL experiment. `seed` is that of every stage (the stages' own are ignored)."""

    experiment: str = "casl"
    world: str = "avatars"
    concepts: tuple[str, ...] = ("Smiling",)
    data: DataConfig = field(default_factory=DataConfig)
    harvest: HarvestConfig = field(default_factory=HarvestConfig)
    sae: TrainConfig = field(default_factory=TrainConfig)
    align: AlignConfig = field(default_factory=AlignConfig)
    steer: SteerConfig = field(default_factory=SteerConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.concepts:
            raise SparsightError("the recipe names no concept")
