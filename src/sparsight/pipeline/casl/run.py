"""A run of the CASL experiment."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any, ClassVar

from sparsight.concepts import choose
from sparsight.pipeline.run import Run, Work
from sparsight.sae import TrainConfig
from sparsight.sae.config import without_later_defaults
from sparsight.worlds import load_avatars
from sparsight.worlds.avatars.world import AvatarsWorld


class CaslRun(Run):
    """Images of a world with attributes: one SAE, an alignment for each concept, edits, figures, a page."""

    READS: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "harvest": ("world", "seed", "precision", "data", "harvest"),
        "train": ("sae",),
        "align": ("concepts", "align"),
        "steer": ("steer",),
        "evaluate": (),
        "report": ("name",),
    }

    @cached_property
    def world(self) -> AvatarsWorld:
        """The world of the recipe."""
        return load_avatars(self.recipe.world)

    def work(self) -> Mapping[str, Work]:
        """What each stage does."""
        from sparsight.pipeline.casl.stages import WORK

        return WORK

    def check(self) -> None:
        """An unknown concept is found before anything is written."""
        choose(self.recipe.concepts, self.world.concepts)

    @property
    def train_numbers(self) -> list[int]:
        """Images of the split "harvest" that the SAE and the alignments learn from."""
        return list(range(self.recipe.data.train))

    @property
    def held_out_numbers(self) -> list[int]:
        """Images of the split "harvest" that neither has seen."""
        data = self.recipe.data
        return list(range(data.train, data.train + data.held_out))

    def plain(self) -> dict[str, Any]:
        """The recipe as digests see it: runs of earlier versions stay done."""
        plain = super().plain()
        plain["sae"] = without_later_defaults(TrainConfig, plain["sae"])
        return plain
