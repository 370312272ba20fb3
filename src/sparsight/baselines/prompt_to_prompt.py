"""Prompt-to-Prompt (Hertz et al., ICLR 2023, arXiv 2208.01626): edit a prompt, keep the attention of the image's own.

In the first steps the cross-attention maps of the source's pass replace those of the edited one (its algorithm 1): by a
word swap, by a refinement, or with one word's map multiplied. Small self-attention maps are replaced in their own share
of the steps. As in the released code, only the rows that see the prompt are changed.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from sparsight.baselines.data import FitData
from sparsight.baselines.injection import Blending, Injection
from sparsight.baselines.method import TEXT_TO_IMAGE, Editor, Method, Plan
from sparsight.baselines.retelling import aligned, mentions, token_ids, wordless, words_of
from sparsight.baselines.two_paths import FREE, PathControl, TwoPathEditor, WordMaps
from sparsight.concepts.concept import Concept
from sparsight.diffusion.conditioning import Conditioning
from sparsight.diffusion.model import DiffusionModel
from sparsight.errors import SparsightError, unknown

EDITS = ("swap", "refine", "reweight")


@dataclass(frozen=True)
class PromptToPrompt(Method):
    """`edit` "swap" changes the concept's source text to its target, "refine" adds words, "reweight" turns one up or down.

    Strength s of "swap" and "refine" is the share of the steps without injection: the source's cross-attention is
    injected in the first 1 - s of the steps (the paper's tau; its usual 0.8 is s = 0.2), self-attention in `self_share`
    of those. At s = 0 nothing is edited, also not the prompt; just above 0 the maps are the source's and the words are
    not. Strength s of "reweight" multiplies the map of the concept's target text, which the prompt must say, by 1 + s
    in all steps: -1 takes the word away.

    `positions` is the largest self-attention map that is injected, in positions (16 x 16 in the paper). With `blend`
    the state is the source's outside of where the concept's words are (local blend): their maps of all such layers,
    summed over the steps so far, widened by 3 x 3 and above `threshold`. The last step's result is not blended again.
    """

    name = "prompt_to_prompt"
    title = "Prompt-to-Prompt"
    paper = "arXiv 2208.01626"
    needs = frozenset({TEXT_TO_IMAGE})

    edit: str = "swap"
    self_share: float = 0.5
    positions: int = 256
    blend: bool = False
    threshold: float = 0.3

    def __post_init__(self) -> None:
        if self.edit not in EDITS:
            raise unknown("edit of a prompt", self.edit, EDITS)
        if not 0 <= self.self_share <= 1:
            raise SparsightError(f"self_share is {self.self_share}, but must lie between 0 and 1")

    def unfit(self, concept: Concept) -> str | None:
        """Words must tell the concept."""
        return wordless(concept)

    def fit(self, concept: Concept, data: FitData) -> Editor:
        """Nothing is learned."""
        return ReweightEditor(concept, self) if self.edit == "reweight" else PromptToPromptEditor(concept, self)


@dataclass
class PromptToPromptEditor(TwoPathEditor):
    """Word swap and refinement."""

    method: PromptToPrompt
    unit = FREE
    own = 0.2

    def control(self, model: DiffusionModel, strength: float, plan: Plan, target: Conditioning) -> PathControl:
        """The injection of this run."""
        assert plan.conditioning is not None
        pairs = [
            aligned(token_ids(model, before), token_ids(model, after), self.method.edit == "swap")
            for before, after in zip(plan.conditioning.prompts, target.prompts, strict=True)
        ]
        share = max(0.0, 1 - abs(strength))
        return Injection(
            torch.stack([m for m, _ in pairs]), torch.stack([new for _, new in pairs]), len(plan.noise),
            cross_steps=round(share * plan.loop.steps), self_steps=round(self.method.self_share * share * plan.loop.steps),
            positions=self.method.positions, blending=self.blending(model, strength, plan, target),
        )  # fmt: skip

    def blending(self, model: DiffusionModel, strength: float, plan: Plan, target: Conditioning) -> Blending | None:
        """The masks of local blend, where it is asked for."""
        if not self.method.blend:
            return None
        assert plan.conditioning is not None
        before, after = words_of(self.concept, strength)
        size, grid = len(plan.noise), (plan.noise.shape[-2], plan.noise.shape[-1])
        source = WordMaps(list(mentions(model, plan.conditioning.prompts, before)), size, grid)
        edited = WordMaps(list(mentions(model, target.prompts, after)), size, grid)
        return Blending(source, edited, self.method.threshold)


@dataclass
class ReweightEditor(TwoPathEditor):
    """Attention re-weighting: the prompt stays."""

    method: PromptToPrompt
    unit = "the word's own attention, added to itself"

    def target(self, model: DiffusionModel, strength: float, plan: Plan) -> Conditioning:
        """The run's own prompts. Raises `SparsightError` where one does not say the word."""
        if plan.conditioning is None:
            raise SparsightError("this method edits a prompt: give the run its prompts, from encode_prompts([...])")
        for prompt, places in zip(
            plan.conditioning.prompts, mentions(model, plan.conditioning.prompts, self.concept.target), strict=True
        ):
            if not places:
                raise SparsightError(f"the prompt {prompt!r} does not say {self.concept.target!r}: nothing to reweight")
        return plan.conditioning

    def control(self, model: DiffusionModel, strength: float, plan: Plan, target: Conditioning) -> PathControl:
        """The source's maps in all steps, with the word's multiplied by 1 + strength."""
        places = list(mentions(model, target.prompts, self.concept.target))
        words, steps = target.text.shape[1], plan.loop.steps
        matrix = torch.eye(words).repeat(len(places), 1, 1)
        for row, own in enumerate(places):
            matrix[row, own, own] = 1 + strength
        return Injection(
            matrix, torch.zeros(len(places), words, dtype=torch.bool), len(plan.noise), cross_steps=steps,
            self_steps=round(self.method.self_share * steps), positions=self.method.positions,
        )  # fmt: skip
