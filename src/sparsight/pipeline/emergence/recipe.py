"""What an emergence run is asked for."""

from __future__ import annotations

from dataclasses import dataclass, field

from sparsight.concepts.dictionary_build import DictionaryConfig
from sparsight.errors import SparsightError, unknown
from sparsight.pipeline.emergence.own_models import OwnConfig
from sparsight.pipeline.recipe import Recipe
from sparsight.sae import TrainConfig
from sparsight.steering.concept_edit import NORMALISERS, SCOPES

STAGES = ("early", "middle", "final")
WAYS = ("entries", "evidence")


@dataclass(frozen=True)
class PromptsConfig:
    """How many prompts, one image each, all different: the SAEs learn from `train` and are measured on `held_out`;
    `dictionary` makes the dictionaries; thresholds are chosen on `validation` and figures taken on `test`.
    """

    train: int = 1000
    held_out: int = 128
    dictionary: int = 600
    validation: int = 150
    test: int = 300

    def __post_init__(self) -> None:
        if min(self.train, self.held_out, self.dictionary, self.validation, self.test) < 1:
            raise SparsightError("every use of the prompts needs one prompt at least")


@dataclass(frozen=True)
class SamplingConfig:
    """How images are drawn: DDIM of `steps` steps with diffusers' `guidance`."""

    steps: int = 50
    guidance: float = 7.5
    batch_size: int = 24


@dataclass(frozen=True)
class EditConfig:
    """How an edit is made and how its strength is found.

    `strengths` are tried on validation images; one strength is one mean norm of the push over the mean norm of the
    tokens that it is added to, so that normalisers and stages compare. `by` says how latents are found: by dictionary
    "entries" as in the paper, of which `share` leaves out those of which the word is less than that share, or by "evidence".
    `most` takes the best so many (0: all). `validation` and `test` count images: for layout
    seeds for each object and quadrant, for style prompts for each style.
    """

    site: str = "mid_block.attentions.0:update"
    k: int = 10
    normaliser: str = "norm"
    scope: str = "cond"
    strengths: tuple[float, ...] = (0.5, 1, 2, 4)
    by: str = "entries"
    share: float = 0.0
    most: int = 0
    validation: int = 2
    test: int = 10

    def __post_init__(self) -> None:
        if self.normaliser not in NORMALISERS:
            raise unknown("normaliser", self.normaliser, NORMALISERS)
        if self.scope not in SCOPES:
            raise unknown("scope", self.scope, SCOPES)
        if self.by not in WAYS:
            raise unknown("way to find latents", self.by, WAYS)
        if not self.strengths:
            raise SparsightError("an edit needs a strength at least to try")


@dataclass(frozen=True)
class EmergenceRecipe(Recipe):
    """An emergence experiment.

    `sites` are the blocks that are read, each with an SAE for every stage, half of guidance and k of `k`. `between` > 0
    also trains one SAE across time for each site, over so many steps spread evenly. `words` are the word vectors.
    `objects` and `styles` are moved and brought in (none: all that the world knows). `calibrate` tries shares,
    normalisers, scopes and k on validation images before anything is tested. `own` is read where `world` is "own".
    """

    experiment: str = "emergence"
    world: str = "scenes"
    sites: tuple[str, ...] = (
        "down_blocks.0.attentions.0:update",
        "mid_block.attentions.0:update",
        "up_blocks.1.attentions.0:update",
    )
    k: tuple[int, ...] = (10, 20)
    between: int = 7
    words: str = "wordllama"
    objects: tuple[str, ...] = ()
    styles: tuple[str, ...] = ()
    calibrate: bool = False
    own: OwnConfig = field(default_factory=OwnConfig)
    prompts: PromptsConfig = field(default_factory=PromptsConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    sae: TrainConfig = field(default_factory=lambda: TrainConfig(activation="topk", expansion=4.0, lr=1e-4))
    dictionary: DictionaryConfig = field(default_factory=lambda: DictionaryConfig(normaliser="max"))
    layout: EditConfig = field(default_factory=EditConfig)
    style: EditConfig = field(default_factory=lambda: EditConfig(most=1, validation=16, test=200))

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.sites or not self.k:
            raise SparsightError("the recipe needs one site and one k at least")
        for edit in (self.layout, self.style):
            if edit.site not in self.sites:
                raise unknown("site of the edits", edit.site, self.sites)
            if edit.k not in self.k:
                raise SparsightError(f"edits with k = {edit.k} need SAEs of it: k must be one of {list(self.k)}")
