"""CASL-Steer (arXiv 2601.15441, eq. 9-11) and its ablations, from one alignment. All of it is `steering`'s own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from sparsight.baselines.data import FitData
from sparsight.baselines.method import ALIGNMENTS, SAE, STORE, Editor, Method
from sparsight.baselines.units import in_units, untold
from sparsight.concepts.alignment import Alignment
from sparsight.concepts.concept import Concept
from sparsight.concepts.learn import align
from sparsight.concepts.paths import AlignConfig
from sparsight.steering import LatentSteering, Steering, casl_steer, controls


@dataclass(frozen=True)
class Casl(Method):
    """The top `k` latents of the alignment gate their own columns of its map.

    Give `latents` to steer others, such as those that a validation set preferred. The paper's alphas, 16 to 160 by
    concept, were chosen by eye, so that no strength is its own setting.
    """

    name = "casl"
    title = "CASL-Steer"
    paper = "arXiv 2601.15441"
    needs = frozenset({ALIGNMENTS, SAE, STORE})
    mode = "asymmetric"

    k: int = 1
    ranking: str = "l2"
    latents: tuple[int, ...] = ()

    def refusal(self, data: FitData) -> str | None:
        """CASL has one code for all timesteps."""
        return untold(data)

    def steering(self, concept: Concept, data: FitData) -> LatentSteering:
        """CASL-Steer at the paper's alpha 1."""
        return casl_steer(
            data.sae, data.alignment(concept), k=self.k, ranking=self.ranking, window=data.window,
            latents=self.latents or None,
        )  # fmt: skip

    def ablated(self, casl: LatentSteering, concept: Concept, data: FitData) -> Steering:
        """What is steered instead; here CASL itself."""
        return casl

    def fit(self, concept: Concept, data: FitData) -> Editor:
        """The steering in the shared unit."""
        return in_units(self.ablated(self.steering(concept, data), concept, data), data)


@dataclass(frozen=True)
class _Ablation(Casl):
    """One of `steering.controls`, by its name there."""

    control = ""

    def ablated(self, casl: LatentSteering, concept: Concept, data: FitData) -> Steering:
        """The control of this name; all draws are from the seed."""
        alignment, tokens = data.alignment(concept), data.sample()["tokens"]
        plain = data.alignment(concept, "channels") if self.control == "no_sae" else None
        return controls(casl, alignment, plain, tokens, None, seed=data.seed)[self.control]


@dataclass(frozen=True)
class CaslRandomLatent(_Ablation):
    """Other living latents than CASL's gate their own columns of the map: does the choice of latents matter?"""

    name = "casl_random_latent"
    title = "CASL, random latents"
    control = "random_latent"


@dataclass(frozen=True)
class CaslRandomDirection(_Ablation):
    """CASL's latents gate random directions: does the map matter?"""

    name = "casl_random_direction"
    title = "CASL, random directions"
    control = "random_direction"


@dataclass(frozen=True)
class CaslDecoderAtom(_Ablation):
    """CASL's latents gate their decoder atoms: is the learned map better than the SAE's own directions?"""

    name = "casl_decoder_atom"
    title = "CASL, decoder atoms"
    control = "decoder_atom"


@dataclass(frozen=True)
class CaslNoSae(_Ablation):
    """The map that the same loss learns on the activation itself: is the SAE of use at all?"""

    name = "casl_no_sae"
    title = "CASL without an SAE"
    control = "no_sae"


def learned_alignments(data: FitData, config: AlignConfig | None = None) -> Callable[[Concept, str], Alignment]:
    """A source of alignments for `FitData` that learns each when it is first asked for; both bases at once.

    `data` must have a store, an SAE, images and a CLIP. The training images and the seed are those of `data`.
    """
    learned: dict[tuple[str, str], Alignment] = {}
    config = replace(config or AlignConfig(), seed=data.seed)

    def alignment(concept: Concept, basis: str) -> Alignment:
        if (concept.name, basis) not in learned:
            found = align(
                data.model, data.sae, data.store, data.images, [concept], data.clip, config, without_sae=True,
                numbers=data.numbers,
            )  # fmt: skip
            learned.update(found)
        return learned[concept.name, basis]

    return alignment
