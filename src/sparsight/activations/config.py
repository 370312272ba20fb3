"""What a harvest is asked for: `HarvestConfig` from images, `Stream` with more choices, `PromptStream` from prompts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sparsight.diffusion.conditioning import require_guidance
from sparsight.diffusion.model import DiffusionModel
from sparsight.diffusion.sites import HALVES
from sparsight.errors import SparsightError, unknown

METHODS = ("inversion", "noising")


@dataclass(frozen=True)
class HarvestConfig:
    """What to harvest. `method` "inversion" follows each image up DDIM's own path, "noising" adds fresh noise.

    Timesteps are those of a `steps`-step run that lie in `low` ... `high` (CASL: 500 to 999).
    """

    METHODS: ClassVar[tuple[str, ...]] = METHODS

    site: str = "mid_block"
    steps: int = 100
    low: int = 500
    high: int = 999
    method: str = "inversion"
    refine: int = 0
    dtype: str = "fp16"
    batch_size: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        if self.method not in self.METHODS:
            raise unknown("harvest method", self.method, self.METHODS)
        if self.low > self.high:
            raise SparsightError(f"the harvest's timesteps run from {self.low} to {self.high}: nothing lies between")
        if self.batch_size < 1:
            raise SparsightError(f"the harvest's batch size is {self.batch_size}, but must be at least 1")

    def stamps(self, model: DiffusionModel) -> list[int]:
        """The timesteps that are harvested, from clean to noisy."""
        stamps = sorted(t for t, _ in model.pairs(self.steps) if self.low <= t <= self.high)
        if not stamps:
            raise SparsightError(f"no timestep of a {self.steps}-step run lies between {self.low} and {self.high}")
        return stamps

    def describe(self, source: str) -> str:
        """Where the states come from, for the store to say."""
        return f"{source}, {self.method}, {self.steps} steps"

    def require(self, model: DiffusionModel) -> None:
        """Raise `SparsightError` for a model that cannot be harvested this way."""
        if model.takes_prompts:
            raise SparsightError(f"{model.name} is a text-to-image model: harvest it from prompts, with PromptStream")


@dataclass(frozen=True)
class Stream(HarvestConfig):
    """A harvest's choices, and what else one stream of a pass may choose.

    `positions` keeps that many positions of each map, chosen for each image by `seed` (None: all). `keep_x_t` stores
    the states x_t too; `align` needs them, training does not. `conditioning` is for models with a prompt
    (`PromptStream`); here it must be "".
    """

    positions: int | None = None
    keep_x_t: bool = True
    conditioning: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_conditioning()

    def _check_conditioning(self) -> None:
        if self.conditioning:
            raise SparsightError(f"conditioning {self.conditioning!r} needs a text-to-image model (valid here: '')")


@dataclass(frozen=True)
class PromptStream(Stream):
    """One stream of a text-to-image model: images are generated from prompts, and a site is read on the way.

    `conditioning` chooses the half of guidance, "cond" or "uncond". `at` chooses steps by their number, 0 the noisiest,
    negative ones from the end; without it the steps whose timesteps lie in `low` ... `high`. Image n starts from
    `start_noise(model, seed, [n])`; `guidance` and `negative` are those of `encode_prompts`.
    """

    METHODS: ClassVar[tuple[str, ...]] = ("sampling",)

    site: str = "mid_block.attentions.0:update"
    steps: int = 50
    low: int = 0
    high: int = 999
    method: str = "sampling"
    batch_size: int = 16
    keep_x_t: bool = False
    conditioning: str = "cond"
    at: tuple[int, ...] = ()
    guidance: float = 7.5
    negative: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "at", tuple(self.at))
        require_guidance(self.guidance)
        for step in self.at:
            if not -self.steps <= step < self.steps:
                raise SparsightError(f"step {step} is to be harvested, but the run has steps 0 to {self.steps - 1}")
        if self.conditioning == "uncond" and self.guidance == 1:
            raise SparsightError("conditioning 'uncond' needs a guidance above 1: at 1 that half is not run")

    def _check_conditioning(self) -> None:
        if self.conditioning not in HALVES:
            raise unknown("conditioning", self.conditioning, HALVES)

    def stamps(self, model: DiffusionModel) -> list[int]:
        """The timesteps that are harvested, from clean to noisy."""
        if not self.at:
            return super().stamps(model)
        pairs = model.pairs(self.steps)
        return sorted({pairs[step][0] for step in self.at})

    def describe(self, source: str) -> str:
        """Where the states come from, for the store to say."""
        against = f", negative {self.negative!r}" if self.negative else ""
        return f"{super().describe(source)}, guidance {self.guidance:g}{against}, seed {self.seed}"

    def require(self, model: DiffusionModel) -> None:
        """Raise `SparsightError` for a model without prompts."""
        if not model.takes_prompts:
            raise SparsightError(f"{model.name} takes no prompts: harvest it from images, with Stream")


def grid(model: DiffusionModel, config: HarvestConfig) -> list[int]:
    """The timesteps that are harvested, from clean to noisy."""
    return config.stamps(model)


def prompt_streams(
    sites: tuple[str, ...],
    stages: dict[str, tuple[int, ...]],
    halves: tuple[str, ...] = HALVES[::-1],
    **options: object,
) -> dict[str, PromptStream]:
    """A stream for each site, stage (a name and its steps) and half: {"SITE.STAGE.HALF": PromptStream}.

    The 18 of Tinaz et al. (arXiv 2504.15473, section 3.2) are three sites' updates, three stages
    {"early": (0,), "middle": (24,), "final": (49,)} of 50 steps, and both halves. `options` go to every stream.
    """
    return {
        f"{site.replace(':', '-')}.{stage}.{half}": PromptStream(site=site, at=at, conditioning=half, **options)  # type: ignore[arg-type]
        for site in sites
        for stage, at in stages.items()
        for half in halves
    }
