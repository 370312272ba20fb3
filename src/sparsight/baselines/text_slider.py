"""Concept Sliders from texts (Gandikota et al., ECCV 2024, arXiv 2311.12092): a low-rank change of weights that can be scaled.

A LoRA on attention layers learns, on states that it made itself, the guided difference of two prompts (the paper's eq. 7):
eps*(x_t, neutral) = eps(x_t, neutral) + eta (eps(x_t, positive) - eps(x_t, opposite)), in mean over `preserve`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from sparsight.baselines.data import FitData
from sparsight.baselines.jacobian import in_fp32
from sparsight.baselines.lora import Lora, needs_peft
from sparsight.baselines.method import GRADIENTS, TEXT_TO_IMAGE, Editor, Method, Plan
from sparsight.baselines.retelling import wordless
from sparsight.concepts.concept import Concept
from sparsight.diffusion.conditioning import Conditioning
from sparsight.diffusion.model import DiffusionModel
from sparsight.diffusion.sampling import Loop, walk
from sparsight.errors import SparsightError, unknown

LAYERS = {"self": (".attn1.",), "cross": (".attn2.",), "all": (".attn1.", ".attn2.")}


@dataclass(frozen=True)
class TextSlider(Method):
    """Strength is the scale of the LoRA: 1 as it was trained, and -1 the opposite way.

    The positive text is the concept's target; `opposite` and `neutral` (what is edited) are its source unless given.
    `preserve` are texts put before all three, such as ("male person", "female person"), between which the slider shall
    not choose. `layers`: "self" attention (the paper leaves cross-attention out), "cross" or "all". `below` applies it at
    timesteps under that one only, which keeps the layout. The paper's numbers are the defaults.
    """

    name = "text_slider"
    title = "Concept Slider, texts"
    paper = "arXiv 2311.12092"
    needs = frozenset({TEXT_TO_IMAGE, GRADIENTS})

    opposite: str = ""
    neutral: str = ""
    preserve: tuple[str, ...] = ("",)
    layers: str = "self"
    rank: int = 4
    alpha: float = 1.0
    eta: float = 4.0
    guidance: float = 3.0
    iterations: int = 1000
    steps: int = 50
    lr: float = 2e-4
    below: int = 1000

    def __post_init__(self) -> None:
        if self.layers not in LAYERS:
            raise unknown("layers of a slider", self.layers, LAYERS)
        if self.rank < 1 or self.iterations < 1 or self.steps < 2 or not self.preserve:
            raise SparsightError("a slider needs a rank, an iteration, two steps and a text to preserve ('' for none)")

    def refusal(self, data: FitData) -> str | None:
        """The LoRA's layers are those of peft."""
        return needs_peft()

    def unfit(self, concept: Concept) -> str | None:
        """Words must tell the concept."""
        return wordless(concept)

    def texts(self, concept: Concept) -> list[tuple[str, str, str]]:
        """(neutral, positive, opposite) for each text to preserve."""
        three = (self.neutral or concept.source, concept.target, self.opposite or concept.source)
        return [tuple(f"{p} {text}".strip() for text in three) for p in self.preserve]  # type: ignore[misc]

    def fit(self, concept: Concept, data: FitData) -> Editor:
        """Train the LoRA; the model itself is as before when this returns."""
        lora = Lora.on(data.model, attention(data.model, self.layers), self.rank, self.alpha, data.seed)
        lessons = [Lesson.of(data.model, texts, self.guidance) for texts in self.texts(concept)]
        train(data.model, lora, lessons, self, data.seed)
        return SliderEditor(lora, self.below)


def attention(model: DiffusionModel, layers: str) -> list[str]:
    """The paths of the linear maps in a choice of `LAYERS`."""
    return [
        path
        for path, module in model.denoiser.named_modules()
        if isinstance(module, nn.Linear) and any(part in f"{path}." for part in LAYERS[layers])
    ]


class Lesson(NamedTuple):
    """Prompts of one text to preserve, alone; `walked` is the neutral one under guidance, for making states."""

    neutral: Conditioning
    positive: Conditioning
    opposite: Conditioning
    walked: Conditioning

    @classmethod
    def of(cls, model: DiffusionModel, texts: tuple[str, str, str], guidance: float) -> Lesson:
        """Encode (neutral, positive, opposite)."""
        neutral, positive, opposite = (model.encode_prompts(text, guidance=1.0) for text in texts)
        return cls(neutral, positive, opposite, model.encode_prompts(texts[0], guidance=guidance))


def train(model: DiffusionModel, lora: Lora, lessons: list[Lesson], options: TextSlider, seed: int) -> None:
    """AdamW on the loss of states that the LoRA itself made, stopped at a random step; one state and prompt at a time."""
    dice = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(lora.parameters(), lr=options.lr)
    loop, pairs = Loop(options.steps, mode="plain"), model.pairs(options.steps)
    with torch.enable_grad(), in_fp32(model), lora.on_model(model, 1.0):
        for turn in range(options.iterations):
            lesson = lessons[turn % len(lessons)]
            stop = int(torch.randint(1, options.steps, (1,), generator=dice))
            x = torch.randn(1, *model.latent_shape, generator=dice).to(model.device)
            with torch.no_grad():
                for moment in walk(model, x, loop, conditioning=lesson.walked):
                    x = moment.x_next
                    if moment.index + 1 == stop:
                        break
            loss = slider_loss(model, lora, lesson, x, pairs[stop][0], options.eta)
            if not torch.isfinite(loss):
                raise SparsightError("the slider's training diverged: lower its learning rate")
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def slider_loss(model: DiffusionModel, lora: Lora, lesson: Lesson, x: Tensor, t: int, eta: float) -> Tensor:
    """The mean squared distance of the slider's noise from its goal at states x (B, c, h, w); the LoRA must be in."""
    lora.scale(0.0)
    with torch.no_grad():
        neutral, positive, opposite = (model.predict(x, t, told).eps for told in lesson[:3])
    lora.scale(1.0)
    goal = neutral + eta * (positive - opposite)
    return (model.predict(x, t, lesson.neutral).eps - goal).square().mean()


@dataclass(frozen=True)
class SliderEditor(Editor):
    """The LoRA at the scale of the strength, at timesteps under `below`."""

    lora: Lora
    below: int
    unit = "the slider as it was trained"
    own = 1.0

    @contextmanager
    def context(self, model: DiffusionModel, strength: float, plan: Plan) -> Iterator[None]:
        """The LoRA in the model; nothing at strength 0."""
        if strength == 0:
            yield
            return
        with self.lora.on_model(model, strength):
            yield

    def move(
        self, model: DiffusionModel, x_t: Tensor, t: int, strength: float, conditioning: Conditioning | None = None
    ) -> Tensor:
        """The state as it is; the LoRA is turned on or off for this step."""
        if strength != 0:
            self.lora.scale(strength if t < self.below else 0.0)
        return x_t
