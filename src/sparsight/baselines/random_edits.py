"""What any edit has to beat: a random living latent's atom, and a random direction, at the same mean norm."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from sparsight.baselines.data import FitData
from sparsight.baselines.method import SAE, STORE, Editor, Method
from sparsight.baselines.units import in_units, untold
from sparsight.concepts.concept import Concept
from sparsight.errors import SparsightError
from sparsight.steering import Direction, LatentSteering


@dataclass(frozen=True)
class RandomDirection(Method):
    """One random unit vector, the same at every position and timestep; it knows nothing of the concept.

    `draw` numbers the vectors: several draws give the spread of chance.
    """

    name = "random_direction"
    title = "random direction of equal norm"
    paper = "control"
    needs = frozenset({STORE})

    draw: int = 0

    def fit(self, concept: Concept, data: FitData) -> Editor:
        """A vector from (seed, draw), in the shared unit."""
        generator = torch.Generator().manual_seed(1_000_003 * data.seed + self.draw)
        vector = torch.randn(data.model.site(data.site).channels, generator=generator)
        return in_units(Direction(data.site, 1.0, data.window, vector=vector), data)


@dataclass(frozen=True)
class RandomLatent(Method):
    """A random latent that fires on the training tokens, its own activation times its own decoder atom."""

    name = "random_latent"
    title = "random latent"
    paper = "control"
    needs = frozenset({STORE, SAE})

    draw: int = 0

    def refusal(self, data: FitData) -> str | None:
        """One latent for all timesteps."""
        return untold(data)

    def fit(self, concept: Concept, data: FitData) -> Editor:
        """A living latent drawn from (seed, draw), in the shared unit. Raises `SparsightError` where none ever fires."""
        sample = data.sample()
        code = data.sae.encode_sparse(sample["tokens"])
        alive = code.indices[code.values > 0].unique()
        if not len(alive):
            raise SparsightError("no latent fires on the training images: train the SAE for longer")
        generator = torch.Generator().manual_seed(1_000_003 * data.seed + self.draw)
        latent = int(alive[torch.randint(len(alive), (1,), generator=generator)])
        atom = data.sae.W_dec.detach()[[latent]] / data.sae.scale
        return in_units(
            LatentSteering(data.site, 1.0, data.window, sae=data.sae, latents=(latent,), directions=atom), data
        )
